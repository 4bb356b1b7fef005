"""Take over the database of a previous system: plan the changes, apply them, make attachments of its lists of files."""
