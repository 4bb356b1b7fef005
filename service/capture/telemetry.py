"""Logs, metrics and traces of attempts and of their downloads."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog
from structlog.contextvars import bind_contextvars

from service.errors import HoldfastError
from service.faultpoints import reach
from service.jobs.attempts import Claim
from service.resources import Resources
from service.storage.objects import StoredObject
from service.telemetry.metrics import (
    ATTACHMENT_BYTES,
    ATTACHMENTS,
    ATTEMPTS,
    DOWNLOAD_BYTES,
    DOWNLOAD_SECONDS,
    PROCESSING,
    QUEUE_DELAY,
    code_label,
)

# The Zendesk account's own host; another allowed host; a host that is not allowed.
_CLASSES = {
    name: (DOWNLOAD_BYTES.labels(name), DOWNLOAD_SECONDS.labels(name)) for name in ("account", "cdn", "other")
}
_STORED = ATTACHMENTS.labels("stored")

log = structlog.get_logger()


@dataclass(slots=True)
class Result:
    """The result of an attempt: how it was settled, and its first error."""

    outcome: str = "unsettled"
    code: str | None = None


@contextmanager
def observed(res: Resources, claim: Claim) -> Iterator[Result]:
    """Observe the attempt that runs in the block and sets the result.

    Swallows HoldfastError: Postgres was away or refused every settlement, and the sweep takes the job back.
    """
    began, result = time.monotonic(), Result()
    bind_contextvars(invocation=claim.invocation)
    log.info("attempt_started", **names(claim), age_ms=round(1000 * claim.age))
    if claim.attempt_number == 1:
        QUEUE_DELAY.observe(max(claim.waited, 0))
    try:
        reach(res.settings.fault_points, "after_claim", claim.ticket_id)
        yield result
    except asyncio.CancelledError:
        result.outcome = "handed_back"
        raise
    except HoldfastError as exc:
        log.warning("attempt_unsettled", **names(claim), code=exc.code)
    finally:
        _report(res, claim, result, time.monotonic() - began)


def names(claim: Claim) -> dict[str, int]:
    """Return the names of an attempt for the log."""
    return {"email": claim.email_id, "attempt": claim.attempt_number}


def report_stored(claim: Claim, position: int, stored: StoredObject, seconds: float) -> None:
    """Report a stored file."""
    about = {"bytes": stored.size, "sha256": stored.sha256, "key": stored.key, "ms": round(1000 * seconds)}
    log.info("attachment_stored", **names(claim), position=position, **about)
    _STORED.inc()
    ATTACHMENT_BYTES.inc(stored.size)


def report_not_stored(claim: Claim, position: int, error: HoldfastError) -> None:
    """Report a file that could not be stored."""
    ATTACHMENTS.labels(code_label(error.code)).inc()
    log.info("attachment_not_stored", **names(claim), position=position, code=error.code)


def _report(res: Resources, claim: Claim, result: Result, seconds: float) -> None:
    outcome, code = result.outcome, result.code
    log.info("attempt_ended", **names(claim), outcome=outcome, code=code, ms=round(1000 * seconds))
    ATTEMPTS.labels(outcome, code_label(code)).inc()
    PROCESSING.observe(seconds)
    error = code or (None if outcome == "completed" else outcome)
    about: dict[str, str | int] = {"outcome": outcome, **names(claim)}
    span = _span(claim)
    res.traces.record(claim.invocation, "attempt", seconds, about, at=span, under="webhook", error=error)


def _span(claim: Claim) -> str:
    """Name the attempt within the trace of its e-mail."""
    return f"attempt {claim.attempt_number}"


class ObservedDownload:
    """The chunks of a download, counted on their way into storage.

    The download ends with the last chunk, or with the block; the time from there to the end of the block is that of
    storing the file.
    """

    def __init__(self, res: Resources, claim: Claim, host: str) -> None:
        self.host = host  # the requested one; a redirect may lead to another
        self.chunks: AsyncIterator[bytes]
        self._res = res
        self._claim = claim
        self._received = 0
        self._began = time.monotonic()
        self._ended: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if exc is None:
            ended = self._end(None)
            self._record("store", time.monotonic() - ended, {"bytes": self._received}, None)
        else:
            self._end(exc.code if isinstance(exc, HoldfastError) else type(exc).__name__)

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

    def _end(self, error: str | None) -> float:
        """Report the download once; return the time of its end."""
        if self._ended is None:
            self._ended = time.monotonic()
            seconds = self._ended - self._began
            name = "other" if error == "address_refused" else self._class()
            count, observe = _CLASSES[name]
            count.inc(self._received)
            observe.observe(seconds)
            self._record("download", seconds, {"host": name, "bytes": self._received}, error)
        return self._ended

    def _record(self, step: str, seconds: float, about: dict[str, str | int], error: str | None) -> None:
        under = _span(self._claim)
        self._res.traces.record(self._claim.invocation, step, seconds, about, under=under, error=error)

    def _class(self) -> str:
        return "account" if self._res.account.has_host(self.host) else "cdn"
