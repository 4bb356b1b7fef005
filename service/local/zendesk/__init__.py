"""A stand-in Zendesk on loopback: an account with its API, a CDN, and the sender of webhooks."""
