"""A URL as a bounded stream of bytes; what aiohttp raises becomes Transient or Permanent."""

from service.download.answers import Expected, Limits
from service.download.transfer import Credentials, Egress, download, open_session

__all__ = ["Credentials", "Egress", "Expected", "Limits", "download", "open_session"]
