"""Traces, opened for as long as a process runs; none are sent unless an address is set."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from service.telemetry.shutdown import leave
from service.telemetry.spans import Traces
from service.telemetry.version import full_version

if TYPE_CHECKING:
    from service.telemetry.otlp import ExportedTraces


@asynccontextmanager
async def open_traces(endpoint: str | None) -> AsyncIterator[Traces]:
    """Send what is recorded to this address, in the background; at the end wait for it two seconds."""
    if endpoint is None:
        yield Traces()
        return
    traces = await asyncio.to_thread(_export, endpoint)  # it loads a lot
    try:
        yield traces
    finally:
        if not await leave(traces.close):
            traces.give_up()


def _export(endpoint: str) -> "ExportedTraces":
    from service.telemetry.otlp import ExportedTraces  # noqa: PLC0415 of an extra

    return ExportedTraces(endpoint, full_version())
