"""Targets that finished e-mails are synced to: a MongoDB collection, or an endpoint that takes signed webhooks."""
