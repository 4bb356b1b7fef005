"""Requests to the outside: allowed hosts, bounded downloads, backoff, signed posts."""
