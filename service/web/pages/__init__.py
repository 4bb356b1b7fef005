"""The dashboard: pages and buttons for operators."""
