"""Tell people and machines: by mail, by Slack's incoming webhooks, by signed webhooks. No more than the sending."""
