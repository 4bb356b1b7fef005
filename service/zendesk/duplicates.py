"""The place where an object of a JSON text repeats a key with another value."""

import json
import re
from dataclasses import dataclass

# A string that does not end matches up to the end of the text, so that no part of it is read again.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[{}\[\],]', re.DOTALL)
_COLON = re.compile(r"[ \t\r\n]*+:[ \t\r\n]*+")
_SPACES = " \t\r\n"


@dataclass(slots=True)
class _Level:
    """A list or an object that is open: where the key stands whose value is read, and where its first value is."""

    key_at: int | None = None
    value_at: int = 0
    first: slice | None = None


def second_place(text: str, key: str) -> int | None:
    """Return where an object repeats this key with another value; None if none does.

    The text need be JSON only up to the end of that object.
    """
    levels = [_Level()]
    for token in _TOKEN.finditer(text):
        mark, level = token[0], levels[-1]
        if mark in {"{", "["}:
            levels.append(_Level())
        elif mark in {",", "}", "]"}:
            if level.key_at is not None and _differs(level, text, token.start()):
                return level.key_at
            level.key_at = None
            if mark != "," and len(levels) > 1:
                levels.pop()
        elif (colon := _COLON.match(text, token.end())) and _means(mark, key):
            level.key_at, level.value_at = token.start(), colon.end()
    return None


def _differs(level: _Level, text: str, end: int) -> bool:
    """Say whether the value that ends here is written otherwise than the first one of this key."""
    while text[end - 1] in _SPACES:
        end -= 1
    value, first = slice(level.value_at, end), level.first
    if first is None:
        level.first = value
        return False
    return value.stop - value.start != first.stop - first.start or text[value] != text[first]


def _means(string: str, key: str) -> bool:
    if "\\" not in string:
        return string[1:-1] == key
    try:
        return bool(json.loads(string, strict=False) == key)
    except ValueError:
        return False
