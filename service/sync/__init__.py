"""Carry finished e-mails to where they are used: one attempt, the sweep that finds what is due, once more by hand."""
