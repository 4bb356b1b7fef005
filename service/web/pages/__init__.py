"""The dashboard: pages for operators, and their buttons."""
