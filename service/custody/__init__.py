"""Custody of e-mails: holds, and rules that say how long e-mails are kept."""
