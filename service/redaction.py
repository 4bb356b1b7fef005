"""Take out of a text what nobody may read in a log: addresses hold tokens, passwords and names."""

import re

_URL = re.compile(r"\b(\w[\w+.-]*://)(?:[^\s/?#@]*@)?([\w.:\[\]-]*)[^\s'\")>]*")


def without_addresses(text: str) -> str:
    """Leave of each URL its scheme and its host."""
    return _URL.sub(r"\1\2/…", text)
