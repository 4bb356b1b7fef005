"""The HTTP side: webhook, API, pages, health, metrics. A handler parses, calls one operation, answers."""
