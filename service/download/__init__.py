"""A URL as a bounded stream of bytes; what aiohttp raises becomes Transient or Permanent."""
