"""Zendesk: the signature and the body of its webhooks, and the HTTP client for its API."""
