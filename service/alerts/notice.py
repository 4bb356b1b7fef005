"""What is to be told, whatever the channel."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Notice:
    """A message; `id` stays the same when it is sent again, so that a receiver can tell.

    Title and text are of clean characters, the title one line; what they mean to a channel, its tool escapes.
    """

    id: str
    kind: str  # for machines, as `alert.opened`
    at: datetime
    title: str
    text: str
    link: str | None = None
    follows: str | None = None  # the id of the message that this one continues
    data: Mapping[str, Any] = field(default_factory=dict)  # for machines, as JSON
