"""The JSON API: its handlers by subject, and its description."""
