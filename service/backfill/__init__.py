"""Find what Zendesk has and no webhook announced: e-mails, suspended ones, and what it did with those we have."""
