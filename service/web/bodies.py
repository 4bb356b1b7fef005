"""Read the bodies of webhooks, which anybody may send, within a budget of memory and time."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from service.errors import Rejected, Transient

# Zendesk gives a webhook ten seconds in all, and Postgres has its own budget of them.
BODY_SECONDS = 5.0
# Where bodies take too much memory together, so much of it is kept: a crowd is not gone through for each piece.
_KEPT = 7 / 8
# A body has a size from the start, but no age yet.
_HEAD_START_SECONDS = 0.25


@dataclass(eq=False)
class Reading:
    """A body that is being read."""

    deadline: asyncio.Timeout
    began: float = field(default_factory=time.monotonic)
    body: bytearray = field(default_factory=bytearray)
    is_refused: bool = False

    def burden(self, now: float) -> float:
        """Weigh how much memory it has taken for how long, in bytes times seconds."""
        return len(self.body) * (now - self.began + _HEAD_START_SECONDS)


@dataclass
class Load:
    """The bodies that this process is reading."""

    readings: set[Reading] = field(default_factory=set)
    read_bytes: int = 0

    @contextmanager
    def reading(self, deadline: asyncio.Timeout) -> Iterator[Reading]:
        """Begin with a body, and count its bytes no longer at the end."""
        reading = Reading(deadline)
        self.readings.add(reading)
        try:
            yield reading
        finally:
            self._forget(reading)

    def add(self, reading: Reading, chunk: bytes, together: int) -> None:
        """Count a piece of a body; where all have more bytes than `together`, refuse the largest and slowest."""
        if reading.is_refused:  # and counted no longer
            return
        reading.body += chunk
        self.read_bytes += len(chunk)
        if self.read_bytes > together:
            self._make_room(together * _KEPT)

    def _make_room(self, most: float) -> None:
        now = time.monotonic()
        for reading in sorted(self.readings, key=lambda each: each.burden(now), reverse=True):
            if self.read_bytes <= most:
                break
            reading.is_refused = True
            self._forget(reading)
            reading.body.clear()
            reading.deadline.reschedule(0)

    def _forget(self, reading: Reading) -> None:
        if reading in self.readings:
            self.readings.discard(reading)
            self.read_bytes -= len(reading.body)


LOAD = web.AppKey("load", Load)


async def read_body(request: web.Request, most: int, together: int) -> bytes:
    """Read a body of at most `most` bytes, where all that are being read may have `together`.

    Raises Rejected (413), and Transient where it is slow, breaks off, or others need the room: what Zendesk did not
    get across as a whole it repeats after a 503, and drops after a 4xx.
    """
    if (request.content_length or 0) > most:
        raise _too_large(most)
    load = request.app[LOAD]
    deadline = asyncio.timeout(BODY_SECONDS)
    with load.reading(deadline) as reading:
        try:
            async with deadline:
                async for chunk in request.content.iter_any():
                    load.add(reading, chunk, together)
                    if reading.is_refused:
                        raise overloaded()
                    if len(reading.body) > most:
                        raise _too_large(most)
        except TimeoutError:
            if reading.is_refused:
                raise overloaded() from None
            raise Transient("body_slow", f"The body did not arrive within {BODY_SECONDS:g} s.") from None
        except (OSError, web.RequestPayloadError) as exc:
            raise Transient("body_incomplete", "The body broke off.") from exc
        if reading.is_refused:  # its last piece came together with the refusal
            raise overloaded()
        return bytes(reading.body)


def overloaded() -> Transient:
    return Transient("overloaded", "More webhooks come in than can be taken.")


def _too_large(most: int) -> Rejected:
    return Rejected(413, "too_large", f"A webhook may have {most:,} bytes.")
