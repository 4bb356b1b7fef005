"""Requests to the outside: which hosts may be dialled, bounded downloads, backoff, signed posts."""
