"""Where finished e-mails are carried to: a collection of MongoDB's, or whoever takes a signed webhook."""
