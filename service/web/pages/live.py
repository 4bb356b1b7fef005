"""The live overview: queried every two seconds for all open dashboards, streamed to each as server-sent events."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog
from aiohttp import web

from service.checks.dependencies import check_credentials, check_dependencies, dependencies
from service.checks.probe import Check
from service.errors import HoldfastError, Transient
from service.postgres.engine import WrongTables, within
from service.queries import alerts, failures, overview
from service.queries.alerts import AlertView
from service.queries.failures import FailureGroup
from service.queries.overview import Overview
from service.resources import Resources
from service.web.auth.tokens import login_has_ended, session_has_ended
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.prefix import prefix_of, with_prefix
from service.web.handling.rendering import fill
from service.web.handling.routes import Routes
from service.web.handling.shared import Shared
from service.web.pages import charts

SECONDS = 2.0
DEPENDENCY_SECONDS = 10.0
ZENDESK_SECONDS = 300.0  # its API counts requests
FIRST_SECONDS = 0.3
MOST_ALERTS = 5  # shown
MOST_STREAMS = 100
# A router closes connections that are silent for 55 s.
PING_SECONDS = 15.0
# A browser that cannot receive an event in this time is gone or too slow.
WRITE_SECONDS = 5.0
# A stream checks so often whether its session or login has ended.
SESSION_SECONDS = 5.0
# The longest stream; then the browser reconnects and is authenticated again.
STREAM_SECONDS = 300.0

log = structlog.get_logger()
routes = Routes()


@dataclass(frozen=True)
class Snapshot:
    """The overview at one moment; without Postgres it has an `error` instead."""

    at: datetime
    overview: Overview | None = None
    groups: Sequence[FailureGroup] = ()  # the largest first
    groups_capped: bool = False
    alerts: Sequence[AlertView] = ()
    error: str | None = None
    html: str = ""

    @property
    def digest(self) -> str:
        """A hash of all counts: if it changes, lists have to be loaded again."""
        if self.overview is None:
            return "away"
        counts = (
            self.overview.by_status,
            self.overview.quarantined,
            self.overview.by_sync_status,
            [hour.received for hour in self.overview.hours],
        )
        done = [(hour.completed, hour.failed) for hour in self.overview.hours]
        # Beyond a cap of counting, changes are invisible: assume one each time.
        beyond = self.at if self.overview.capped or self.overview.last_day_capped else None
        return hashlib.sha256(repr((counts, done, beyond)).encode()).hexdigest()[:16]


@dataclass
class Live:
    """The live state of a process; it runs no query while no dashboard is open."""

    res: Resources
    streams: int = 0
    ends: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._dependencies = Shared(lambda: check_dependencies(self.res), DEPENDENCY_SECONDS)
        self._zendesk = Shared(lambda: check_credentials(self.res), ZENDESK_SECONDS)
        self._snapshot = Shared(self._take, SECONDS)

    async def snapshot(self) -> Snapshot:
        """Return a snapshot at most two seconds old; after an error return the last one at once."""
        last = self._snapshot.peek()
        return last if last and last.error else await self._snapshot.get()

    async def close(self) -> None:
        for shared in (self._snapshot, self._dependencies, self._zendesk):
            await shared.close()

    async def dependencies(self) -> Sequence[Check]:
        """Return the state of all dependencies; wait a moment for the first check."""
        if not (self._dependencies.peek() and self._zendesk.peek()):
            await asyncio.wait((self._dependencies.begin(), self._zendesk.begin()), timeout=FIRST_SECONDS)
        known = self._dependencies.peek() or [
            Check(each.title, None, "no answer yet") for each in dependencies(self.res)
        ]
        return [*known, self._zendesk.peek() or Check("Zendesk", None, "no answer yet")]

    async def _take(self) -> Snapshot:
        now = datetime.now(UTC)
        try:
            snapshot = Snapshot(now, *await within(self.res.settings.database_seconds, self._query()))
        except WrongTables as exc:
            snapshot = Snapshot(now, error=exc.message)
        except HoldfastError as exc:
            is_late = exc.code == "database_slow"
            error = "Postgres did not answer in time." if is_late else "Postgres cannot be reached."
            snapshot = Snapshot(now, error=error)
        except Exception:
            log.exception("overview_failed")
            snapshot = Snapshot(now, error="The overview cannot be made; see the log.")
        return await asyncio.to_thread(_draw, snapshot, await self.dependencies())

    async def _query(self) -> tuple[Overview, Sequence[FailureGroup], bool, Sequence[AlertView]]:
        engine = self.res.engine
        found = await overview.summarize(engine, self.res.settings)
        failed = await failures.list_failures(engine)
        groups = sorted(failed.failures, key=lambda group: group.count, reverse=True)
        newest = (await alerts.list_alerts(engine)).alerts
        shown = [alert for alert in newest if alert.resolved_at is None and alert.summary in found.alerts]
        return found, groups, failed.capped, shown[:MOST_ALERTS]


LIVE = web.AppKey("live", Live)


async def open_live(app: web.Application) -> AsyncIterator[None]:
    """Keep the live state while the application runs; its resources must be open."""
    live = app[LIVE] = Live(app[RES])
    yield
    await live.close()


async def end_streams(app: web.Application) -> None:
    """End all streams, so that they do not delay the shutdown."""
    app[LIVE].ends.set()


@routes.get("/live/overview")
async def stream_overview(request: web.Request) -> web.StreamResponse:
    """Send the overview whenever it changes."""
    return await _stream(request, "overview")


@routes.get("/live/changes")
async def stream_changes(request: web.Request) -> web.StreamResponse:
    """Send an event whenever lists have to be loaded again."""
    return await _stream(request, "changed")


async def _stream(request: web.Request, event: str) -> web.StreamResponse:
    live = request.app[LIVE]
    if live.streams >= MOST_STREAMS:
        raise Transient("too_many_watchers", f"This process already serves {MOST_STREAMS} open dashboards.")
    live.streams += 1
    try:
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if request.method == "GET":
            with suppress(ConnectionError):
                await _send(live, request, response, event)
        return response
    finally:
        live.streams -= 1


async def _send(live: Live, request: web.Request, response: web.StreamResponse, event: str) -> None:
    end = time.monotonic() + STREAM_SECONDS
    last, sent_at = None, time.monotonic()
    checked_at = sent_at
    while not live.ends.is_set() and time.monotonic() < end:
        if time.monotonic() - checked_at > SESSION_SECONDS:
            if await _has_signed_out(request):
                return
            checked_at = time.monotonic()
        snapshot = await live.snapshot()
        text = snapshot.html if event == "overview" else snapshot.digest
        message = ""
        if text != last:
            lines = with_prefix(text, prefix_of(request)).splitlines()
            message = f"event: {event}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
        elif time.monotonic() - sent_at > PING_SECONDS:
            message = ": ping\n\n"
        if message:
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(message.encode(errors="replace"))
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
                return
            last, sent_at = text, time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(live.ends.wait(), SECONDS)


async def _has_signed_out(request: web.Request) -> bool:
    """Tell whether the session or the login has ended; without Postgres the stream goes on, to show that error."""
    identity = request[IDENTITY]
    with suppress(Transient):
        if identity.session:
            return await session_has_ended(request, identity)
        if identity.login:
            return await login_has_ended(request, identity)
    return False


def _draw(snapshot: Snapshot, known: Sequence[Check]) -> Snapshot:
    hours = snapshot.overview.hours if snapshot.overview else ()
    shown = {
        "overview": snapshot.overview,
        "groups": snapshot.groups,
        "groups_capped": snapshot.groups_capped,
        "alerts": snapshot.alerts,
        "error": snapshot.error,
        "at": snapshot.at,
        "dependencies": known,
        "is_folded": charts.is_folded(hours),
        "numbers": charts.numbers(hours),
        "times": {what: charts.times(hours, what) for what in ("queue", "processing")},
    }
    return replace(snapshot, html=fill("overview_body.html", shown))
