"""Take out of a text what nobody may read in a log: addresses hold tokens, passwords and names."""

import re

# A scheme without a bound would be looked for anew at each word of a long one, which takes minutes.
# Within an address there may be ' and ), and a signature behind them; at its end they are of the text around it.
_URL = re.compile(r"([\w+.-]{1,30}://)(?:[^\s/?#@]*@)?([\w.:\[\]-]*)(?:[^\s\"<>]*[^\s\"<>'),])?")


def without_addresses(text: str) -> str:
    """Leave of each URL its scheme and its host."""
    return _URL.sub(r"\1\2/…", text)
