"""What all open dashboards look at: found out once in two seconds for all of them, and streamed to each."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog
from aiohttp import web

from service.errors import HoldfastError, Transient
from service.postgres.engine import within
from service.queries import alerts, failures, overview
from service.queries.alerts import AlertView
from service.queries.failures import FailureGroup
from service.queries.overview import Overview
from service.resources import Resources
from service.web.auth.tokens import session_has_ended
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.prefix import prefix_of, with_prefix
from service.web.handling.rendering import fill
from service.web.handling.routes import Routes
from service.web.handling.shared import Shared
from service.web.pages import charts, lights
from service.web.pages.lights import Light

SECONDS = 2.0
FIRST_SECONDS = 0.3
MOST_ALERTS = 5  # that are shown
MOST_STREAMS = 100
# A router closes what was silent for 55 s.
PING_SECONDS = 15.0
# Who cannot take an event in this time has gone, or is too slow to be waited for.
WRITE_SECONDS = 5.0
# How long a stream may outlive its session.
SESSION_SECONDS = 5.0
# Then a browser comes again, and shows whether its session still holds.
STREAM_SECONDS = 300.0

log = structlog.get_logger()
routes = Routes()


@dataclass(frozen=True)
class Snapshot:
    """The overview as it is shown; without Postgres there is none, and `error` says why."""

    at: datetime
    overview: Overview | None = None
    groups: Sequence[FailureGroup] = ()
    alerts: Sequence[AlertView] = ()
    error: str | None = None
    html: str = ""

    @property
    def digest(self) -> str:
        """Tell apart what is worth a look at a list: counts of any state or hour that changed."""
        if self.overview is None:
            return "away"
        counts = (
            self.overview.by_status,
            self.overview.quarantined,
            self.overview.by_sync_status,
            [hour.received for hour in self.overview.hours],
        )
        done = [(hour.completed, hour.failed) for hour in self.overview.hours]
        # What is counted no further may change all the time.
        beyond = self.at if self.overview.capped or self.overview.last_day_capped else None
        return hashlib.sha256(repr((counts, done, beyond)).encode()).hexdigest()[:16]


@dataclass
class Live:
    """What a process knows of all this; it asks nobody while nobody looks."""

    res: Resources
    streams: int = 0
    ends: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._lights = Shared(lambda: lights.look(self.res), lights.SECONDS)
        self._zendesk = Shared(lambda: lights.look_at_zendesk(self.res), lights.ZENDESK_SECONDS)
        self._view = Shared(self._look, SECONDS)

    async def view(self) -> Snapshot:
        """Return what is at most two seconds old; while Postgres is away, at once that it is."""
        last = self._view.peek()
        return last if last and last.error else await self._view.get()

    async def close(self) -> None:
        for shared in (self._view, self._lights, self._zendesk):
            await shared.close()

    async def lights(self) -> Sequence[Light]:
        """Return what is known; what nobody looked at before is waited for, but not for long."""
        if not (self._lights.peek() and self._zendesk.peek()):
            await asyncio.wait((self._lights.begin(), self._zendesk.begin()), timeout=FIRST_SECONDS)
        known = self._lights.peek() or [Light(name, None, "no answer yet") for name in lights.names(self.res)]
        return [*known, self._zendesk.peek() or Light("Zendesk", None, "no answer yet")]

    async def _look(self) -> Snapshot:
        now = datetime.now(UTC)
        try:
            view = Snapshot(now, *await within(self.res.settings.database_seconds, self._ask()))
        except HoldfastError:
            view = Snapshot(now, error="Postgres cannot be reached.")
        except Exception:
            log.exception("overview_broke")
            view = Snapshot(now, error="The overview cannot be made; why is in the log.")
        return await asyncio.to_thread(_draw, view, await self.lights())

    async def _ask(
        self,
    ) -> tuple[Overview, Sequence[FailureGroup], Sequence[AlertView]]:
        engine = self.res.engine
        found = await overview.summarize(engine, self.res.settings)
        groups = (await failures.list_failures(engine)).failures
        newest = (await alerts.list_alerts(engine)).alerts
        told = [alert for alert in newest if alert.resolved_at is None and alert.summary in found.alerts]
        return found, groups, told[:MOST_ALERTS]


LIVE = web.AppKey("live", Live)


async def open_live(app: web.Application) -> AsyncIterator[None]:
    """Have it while the application runs, after its resources were opened."""
    live = app[LIVE] = Live(app[RES])
    yield
    await live.close()


async def end_streams(app: web.Application) -> None:
    """Let no stream hold up the end of the process."""
    app[LIVE].ends.set()


@routes.get("/live/overview")
async def stream_overview(request: web.Request) -> web.StreamResponse:
    """Send the overview whenever it changes."""
    return await _stream(request, "overview")


@routes.get("/live/changes")
async def stream_changes(request: web.Request) -> web.StreamResponse:
    """Send a word whenever there is something new to see in a list."""
    return await _stream(request, "changed")


async def _stream(request: web.Request, event: str) -> web.StreamResponse:
    live = request.app[LIVE]
    if live.streams >= MOST_STREAMS:
        raise Transient("too_many_watchers", f"{MOST_STREAMS} dashboards are open in this process already.")
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
    last, spoke_at = None, time.monotonic()
    asked_at = spoke_at
    while not live.ends.is_set() and time.monotonic() < end:
        if time.monotonic() - asked_at > SESSION_SECONDS:
            if await _has_signed_out(request):
                return
            asked_at = time.monotonic()
        view = await live.view()
        text = view.html if event == "overview" else view.digest
        message = ""
        if text != last:
            lines = with_prefix(text, prefix_of(request)).splitlines()
            message = f"event: {event}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
        elif time.monotonic() - spoke_at > PING_SECONDS:
            message = ": ping\n\n"
        if message:
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(message.encode(errors="replace"))
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
                return
            last, spoke_at = text, time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(live.ends.wait(), SECONDS)


async def _has_signed_out(request: web.Request) -> bool:
    """Look whether the session was ended; without Postgres a stream goes on, to say just that."""
    identity = request[IDENTITY]
    with suppress(Transient):
        return bool(identity.session) and await session_has_ended(request, identity)
    return False


def _draw(view: Snapshot, known: Sequence[Light]) -> Snapshot:
    hours = view.overview.hours if view.overview else ()
    shown = {
        "overview": view.overview,
        "groups": view.groups,
        "alerts": view.alerts,
        "error": view.error,
        "at": view.at,
        "lights": known,
        "numbers": charts.numbers(hours),
        "times": {what: charts.times(hours, what) for what in ("queue", "processing")},
    }
    return replace(view, html=fill("overview_body.html", shown))
