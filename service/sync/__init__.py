"""The sync of finished e-mails to the targets: one attempt, and the sweep that finds due syncs."""
