"""Whether the raw body of a webhook mentions the subject of an erasure; a body that nobody could parse is read as text."""

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from html import unescape
from urllib.parse import unquote_plus

# A ticket's number is one only near the word: a body has many small numbers.
_NEAR = 40
# Zendesk's comments have longer numbers. Shorter ones say nothing.
_LEAST_COMMENT = 6
_ESCAPED = re.compile(r"\\u([0-9a-f]{4})")


@dataclass(frozen=True)
class Mentions:
    """The address, the ticket and the comments that a body may mention."""

    address: str | None = None
    ticket: str | None = None
    comments: AbstractSet[str] = frozenset()

    def found_in(self, body: bytes) -> bool:
        """Say whether a body mentions any of them, in plain text, JSON, a form or HTML."""
        plain = body.decode(errors="replace").lower()
        text = f"{plain}\n{_decoded(plain)}"
        if any(pattern.search(text) for pattern in self._patterns):
            return True
        return bool(self.comments) and not self.comments.isdisjoint(_numbers(text))

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        patterns = []
        if self.address:
            # Another address may end or begin with this one.
            patterns.append(rf"(?<![\w.+-]){re.escape(self.address.lower())}(?![\w-]|\.\w)")
        if self.ticket:
            patterns.append(rf"ticket[^\d]{{0,{_NEAR}}}(?<!\w){re.escape(self.ticket.lower())}(?!\w)")
        return [re.compile(pattern) for pattern in patterns]


def _decoded(text: str) -> str:
    """Undo the escapes of JSON, forms and HTML."""
    text = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text).replace("\\/", "/")
    return unescape(unquote_plus(text, errors="replace")).lower()


def _numbers(text: str) -> set[str]:
    return {number for number in re.findall(r"\d+", text) if len(number) >= _LEAST_COMMENT}
