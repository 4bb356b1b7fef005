"""One trace for an e-mail, from the webhook to the object.

A trace's id is made of the invocation, and so are the ids of the spans that have children: web and worker agree
on them without telling each other, also after Redis was emptied. Spans are recorded when they are over.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from service.telemetry.leaving import leave
from service.version import version

if TYPE_CHECKING:
    from service.telemetry.otlp import ExportedTraces


class Traces:
    """Takes spans that are over; this one forgets them."""

    def record(  # noqa: PLR0913 what a span is made of
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
        """Record what ended just now: its place `at`, if spans will stand `under` it, and what it is itself under."""


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

    return ExportedTraces(endpoint, version())
