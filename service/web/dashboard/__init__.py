"""The dashboard: pages for operators that say whether every e-mail is safe, and buttons that put it right."""
