"""Zendesk's side of the wire: how its webhooks are signed and what they say."""
