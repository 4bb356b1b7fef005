"""Read the bodies of webhooks within a budget of memory and time: anybody may send them."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from service.errors import Rejected, Transient

# Zendesk waits ten seconds for an answer; Postgres has a budget of its own within them.
BODY_SECONDS = 5.0
# Over the limit, refuse bodies until this share of it is left: a crowd must not cause a search for each chunk.
_KEPT_SHARE = 7 / 8
# Added to every age: a new body has a size, but no age yet.
_LEAST_AGE_SECONDS = 0.25


@dataclass(eq=False)
class IncomingBody:
    """A body that has not arrived as a whole yet."""

    deadline: asyncio.Timeout
    began: float = field(default_factory=time.monotonic)
    content: bytearray = field(default_factory=bytearray)
    is_refused: bool = False

    def weight(self, now: float) -> float:
        """Return its size times its age, in bytes times seconds."""
        return len(self.content) * (now - self.began + _LEAST_AGE_SECONDS)


@dataclass
class IncomingBodies:
    """All bodies that this process is reading."""

    bodies: set[IncomingBody] = field(default_factory=set)
    read_bytes: int = 0

    @contextmanager
    def reading(self, deadline: asyncio.Timeout) -> Iterator[IncomingBody]:
        """Count the bytes of a body until the end of the context."""
        body = IncomingBody(deadline)
        self.bodies.add(body)
        try:
            yield body
        finally:
            self._forget(body)

    def add(self, body: IncomingBody, chunk: bytes, most_bytes: int) -> None:
        """Add a chunk; while all bodies together exceed `most_bytes`, refuse the heaviest."""
        if body.is_refused:  # no longer counted
            return
        body.content += chunk
        self.read_bytes += len(chunk)
        if self.read_bytes > most_bytes:
            self._refuse_down_to(most_bytes * _KEPT_SHARE)

    def _refuse_down_to(self, most_bytes: float) -> None:
        now = time.monotonic()
        for body in sorted(self.bodies, key=lambda each: each.weight(now), reverse=True):
            if self.read_bytes <= most_bytes:
                break
            body.is_refused = True
            self._forget(body)
            body.content.clear()
            body.deadline.reschedule(0)

    def _forget(self, body: IncomingBody) -> None:
        if body in self.bodies:
            self.bodies.discard(body)
            self.read_bytes -= len(body.content)


BODIES = web.AppKey("bodies", IncomingBodies)


async def read_body(request: web.Request, most_bytes: int, most_bytes_together: int) -> bytes:
    """Read a body of at most `most_bytes`; all bodies in this process share `most_bytes_together`.

    Raises Rejected (413), and Transient if the body is slow or incomplete, or others need the memory. Zendesk repeats
    a webhook after a 503, and drops it after a 4xx.
    """
    if (request.content_length or 0) > most_bytes:
        raise _too_large(most_bytes)
    bodies = request.app[BODIES]
    deadline = asyncio.timeout(BODY_SECONDS)
    with bodies.reading(deadline) as body:
        try:
            async with deadline:
                async for chunk in request.content.iter_any():
                    bodies.add(body, chunk, most_bytes_together)
                    if body.is_refused:
                        raise overloaded()
                    if len(body.content) > most_bytes:
                        raise _too_large(most_bytes)
        except TimeoutError:
            if body.is_refused:
                raise overloaded() from None
            raise Transient("body_slow", f"The body did not arrive within {BODY_SECONDS:g} s.") from None
        except (OSError, web.RequestPayloadError) as exc:
            raise Transient("body_incomplete", "The body broke off.") from exc
        if body.is_refused:  # the last chunk came together with the refusal
            raise overloaded()
        return bytes(body.content)


def overloaded() -> Transient:
    return Transient("overloaded", "More webhooks arrive than can be received.")


def _too_large(most_bytes: int) -> Rejected:
    return Rejected(413, "too_large", f"A webhook may have {most_bytes:,} bytes.")
