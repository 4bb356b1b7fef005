"""The HTTP side: the webhook, the API, health and metrics. A handler parses, calls one step, answers."""
