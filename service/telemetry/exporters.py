"""Exports to other systems: unexpected errors to Sentry, traces over OTLP. Both are off unless they are set.

A trace follows one e-mail, from the webhook to the object. Its id, and the ids of spans that have children,
are made of the invocation: web and worker agree on them without a message, even after Redis was emptied.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from service.telemetry.logs import without_addresses
from service.telemetry.version import full_version

_FIELDS = {"email", "attempt", "position", "path", "work", "job"}
_SECONDS = 2.0


@asynccontextmanager
async def open_sentry(dsn: str | None, worker_name: str) -> AsyncIterator[None]:
    """Let `report` send to Sentry in the background; at the end, wait two seconds for unsent errors."""
    if dsn is None:
        yield
        return
    client = await asyncio.to_thread(_start, dsn, worker_name)
    try:
        yield
    finally:
        await _finish_in_thread(lambda: client.close(timeout=_SECONDS))


def report(_logger: object, _method: str, event: Any) -> Any:  # noqa: ANN401 as structlog declares processors
    """Report a log event that has a traceback to Sentry, if Sentry is on; a processor for structlog."""
    sdk = sys.modules.get("sentry_sdk")
    if (error := _error_of(event)) and sdk is not None and sdk.is_initialized():
        with sdk.new_scope() as scope:
            # The message of a library's error may contain a person's address: tag the event's name instead.
            scope.set_tag("event", event["_record"].name if "_record" in event else event.get("event"))
            scope.set_tag("invocation", event.get("invocation", ""))
            scope.set_context("fields", {name: event[name] for name in _FIELDS & event.keys()})
            scope.capture_exception(error)
    return event


def _error_of(event: Any) -> BaseException | None:  # noqa: ANN401 as structlog declares it
    given = event.get("exc_info")
    if given is True:
        given = sys.exc_info()
    error = given[1] if isinstance(given, tuple) else given
    return error if isinstance(error, BaseException) else None


def _start(dsn: str, worker_name: str) -> Any:  # noqa: ANN401 the SDK may not be installed
    import sentry_sdk  # noqa: PLC0415 an optional dependency

    sentry_sdk.init(
        dsn,
        release=f"holdfast@{full_version()}",
        server_name=worker_name,
        # Send only the fields of `report`: no requests, no variables, no lines of the log.
        default_integrations=False,
        auto_enabling_integrations=False,
        include_local_variables=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        auto_session_tracking=False,
        enable_backpressure_handling=False,
        shutdown_timeout=_SECONDS,
        before_send=_without_addresses,
    )
    return sentry_sdk.get_client()


def _without_addresses(event: Any, _hint: object) -> Any:  # noqa: ANN401 as the SDK declares it
    for error in event.get("exception", {}).get("values", ()):
        error["value"] = without_addresses(error.get("value") or "")
    return event


class Traces:
    """Records finished spans; this base class discards them."""

    is_on = False  # whether spans go anywhere

    def record(  # noqa: PLR0913 the parts of a span
        self,
        invocation: str,
        name: str,
        seconds: float,
        about: Mapping[str, str | int],
        *,
        at: str = "",
        under: str = "",
        error: str | None = None,
    ) -> None:
        """Record a span that has just ended; `at` names it for its children, and `under` names its parent."""


if TYPE_CHECKING:
    from service.telemetry.otlp import ExportedTraces


@asynccontextmanager
async def open_traces(endpoint: str | None) -> AsyncIterator[Traces]:
    """Send recorded spans to this endpoint in the background; at the end, wait two seconds for unsent ones."""
    if endpoint is None:
        yield Traces()
        return
    traces = await asyncio.to_thread(_export, endpoint)  # the import is slow
    try:
        yield traces
    finally:
        if not await _finish_in_thread(traces.close):
            traces.cancel()


def _export(endpoint: str) -> "ExportedTraces":
    from service.telemetry.otlp import ExportedTraces  # noqa: PLC0415 an optional dependency

    return ExportedTraces(endpoint, full_version())


async def _finish_in_thread(work: Callable[[], object]) -> bool:
    """Run a blocking call in a thread of its own; return False if it takes longer than _SECONDS and is left behind."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop is closed, and no task waits any more
                loop.call_soon_threadsafe(done.set)

    threading.Thread(
        target=run, daemon=True
    ).start()  # the interpreter does not wait for a daemon thread at its end
    with suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS):
            await done.wait()
    return done.is_set()
