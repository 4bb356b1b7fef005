"""What a download was, in metrics and in the trace: whose host, how many bytes, how long."""

import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from service.errors import HoldfastError
from service.jobs.attempts import Claim
from service.resources import Resources
from service.telemetry.metrics import DOWNLOAD_BYTES, DOWNLOAD_SECONDS

# The Zendesk account's own host; another one that files may come from; one that they may not.
_CLASSES = {
    name: (DOWNLOAD_BYTES.labels(name), DOWNLOAD_SECONDS.labels(name)) for name in ("account", "cdn", "other")
}


def place(claim: Claim) -> str:
    """Name the attempt within the trace of its e-mail."""
    return f"attempt {claim.attempt_number}"


class Meter:
    """Chunks on their way into storage, counted; the download is over with the last one, or with the block."""

    def __init__(self, res: Resources, claim: Claim, host: str) -> None:
        self.host = host  # that was asked; a redirect may lead to another
        self.chunks: AsyncIterator[bytes]
        self.ended: float | None = None
        self._res = res
        self._claim = claim
        self._received = 0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(exc, HoldfastError):
            self._end(exc.code)
        else:
            self._end(type(exc).__name__ if exc else None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self.chunks)
        except StopAsyncIteration:
            self._end(None)
            raise
        self._received += len(chunk)
        return chunk

    def _end(self, error: str | None) -> None:
        if self.ended is not None:
            return
        self.ended = time.monotonic()
        seconds = self.ended - self._began
        name = "other" if error == "address_refused" else self._class()
        count, observe = _CLASSES[name]
        count.inc(self._received)
        observe.observe(seconds)
        about: dict[str, str | int] = {"host": name, "bytes": self._received}
        under = place(self._claim)
        self._res.traces.record(self._claim.invocation, "download", seconds, about, under=under, error=error)

    def _class(self) -> str:
        return "account" if self._res.account.has_host(self.host) else "cdn"
