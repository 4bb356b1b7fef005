"""Unexpected errors, to Sentry: those that are logged with a traceback."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from service.telemetry.redaction import without_addresses
from service.telemetry.shutdown import SECONDS, leave
from service.telemetry.version import full_version

_FIELDS = {"email", "attempt", "position", "path", "work", "job"}


@asynccontextmanager
async def open_sentry(dsn: str | None, worker_name: str) -> AsyncIterator[None]:
    """Let `report` send, in the background; at the end wait for it two seconds."""
    if dsn is None:
        yield
        return
    client = await asyncio.to_thread(_start, dsn, worker_name)
    try:
        yield
    finally:
        await leave(lambda: client.close(timeout=SECONDS))


def report(_logger: object, _method: str, event: Any) -> Any:  # noqa: ANN401 as structlog declares processors
    """Tell Sentry of a log event that has a traceback, if it is on; a processor for structlog."""
    sdk = sys.modules.get("sentry_sdk")
    if (error := _error_of(event)) and sdk is not None and sdk.is_initialized():
        with sdk.new_scope() as scope:
            # What a library says may name a person's address.
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


def _start(dsn: str, worker_name: str) -> Any:  # noqa: ANN401 a client of an SDK that may not be there
    import sentry_sdk  # noqa: PLC0415 of an extra

    sentry_sdk.init(
        dsn,
        release=f"holdfast@{full_version()}",
        server_name=worker_name,
        # Nothing but what `report` gives: no requests, no variables, no lines of the log.
        default_integrations=False,
        auto_enabling_integrations=False,
        include_local_variables=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        auto_session_tracking=False,
        enable_backpressure_handling=False,
        shutdown_timeout=SECONDS,
        before_send=_without_addresses,
    )
    return sentry_sdk.get_client()


def _without_addresses(event: Any, _hint: object) -> Any:  # noqa: ANN401 as the SDK declares it
    for error in event.get("exception", {}).get("values", ()):
        error["value"] = without_addresses(error.get("value") or "")
    return event
