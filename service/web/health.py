"""The endpoints for platforms: liveness, readiness, metrics."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from service.backfill.lost import lost_webhooks
from service.checks.dependencies import SECONDS, Ping, dependencies, ping, ping_all
from service.errors import HoldfastError
from service.postgres.engine import connect, within
from service.queries import overview
from service.queries.calls import ApiUseView, api_use_of
from service.queries.overview import Stats
from service.queries.views import View
from service.queries.workers import metrics_of_workers
from service.reconcile.differences import Differences, open_differences
from service.resources import Resources, background
from service.telemetry.exposition import exposition
from service.telemetry.version import commit, version
from service.web.handling.keys import RES
from service.web.handling.routes import Routes
from service.web.handling.shared import Shared

# Readiness needs no target, so a slow one may not delay the answer.
TARGET_SECONDS = 1.0

_Recorded = tuple[Stats, dict[str, str], Differences, ApiUseView | None, int]

log = structlog.get_logger()
routes = Routes("Health")


class Health(View):
    """The process is alive; its version."""

    status: Literal["ok"] = "ok"
    version: str
    commit: str = Field(description="the first 12 digits of the commit, or `unknown`")


class Probe(BaseModel):
    """Whether a dependency answers."""

    ok: bool
    milliseconds: float | None = Field(None, description="if it answers")
    error: str | None = Field(None, description="if it does not")
    detail: str | None = Field(
        None, description="what to do if Postgres refuses connections, or lacks tables of this version"
    )


class Readiness(View):
    """Whether the process can work, and the state of each dependency; it can work without targets."""

    status: Literal["ready", "not_ready"]
    checks: Mapping[Literal["database", "redis", "storage", "mongodb"], Probe]


@dataclass(frozen=True)
class Answers:
    """Answers that cost queries although anybody may ask: one search at a time serves all callers."""

    pings: Shared[Sequence[Ping]]
    metrics: Shared[bytes]


ANSWERS = web.AppKey("answers", Answers)
ALIVE: web.AppKey[Mapping[str, str]] = web.AppKey("alive")


async def open_answers(app: web.Application) -> AsyncIterator[None]:
    """Open the answers, after the resources; close them with the application."""
    res = app[RES]
    app[ALIVE] = {
        "status": "ok",
        **await asyncio.to_thread(lambda: {"version": version(), "commit": commit()}),
    }
    answers = app[ANSWERS] = Answers(
        Shared(lambda: ping_all(res, TARGET_SECONDS), 0), Shared(lambda: _metrics(res), 0)
    )
    async with background(lambda: _log_redis(res)):
        yield
    await answers.pings.close()
    await answers.metrics.close()


@routes.get("/healthz", is_open=True, answer=Health)
async def healthz(request: web.Request) -> web.Response:
    """Tell that the process is alive."""
    return web.json_response(request.app[ALIVE])


async def _log_redis(res: Resources) -> None:
    """Log at the start if Redis is down: otherwise a wrong REDIS_URL shows only with the first webhook."""
    redis = next(each for each in dependencies(res) if each.name == "redis")
    entry = (await ping(redis)).for_strangers()
    if not entry["ok"]:
        log.warning("redis_away", error=entry["error"])
    await asyncio.Event().wait()


@routes.get("/readyz", is_open=True, answer=Readiness, also=(503,))
async def readyz(request: web.Request) -> web.Response:
    """Tell whether the process can work, and which dependencies are down.

    503 if intake or capture lack one. Do not route the webhook by it: intake needs Postgres alone.
    """
    pings = await request.app[ANSWERS].pings.get()
    ready = all(each.error is None for each in pings if each.dependency.is_needed)
    checks = {each.dependency.name: each.for_strangers() for each in pings}
    return web.json_response(
        {"status": "ready" if ready else "not_ready", "checks": checks}, status=200 if ready else 503
    )


@routes.get(
    "/metrics",
    is_open=True,
    media_type="text/plain",
    example='holdfast_webhooks_total{outcome="accepted"} 20.0\nholdfast_emails{status="completed"} 20.0\n',
)
async def metrics(request: web.Request) -> web.Response:
    """Show metrics in Prometheus' text format.

    Those of the workers are included, and those from Postgres, unless it is down.
    """
    text = await request.app[ANSWERS].metrics.get()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _metrics(res: Resources) -> bytes:
    recorded: _Recorded | tuple[()] = ()
    with suppress(HoldfastError):
        recorded = await within(SECONDS, _recorded(res))
    return await asyncio.to_thread(exposition, *recorded)  # it reads files


async def _recorded(res: Resources) -> _Recorded:
    record = await overview.stats(res.engine)
    async with connect(res.engine) as conn:
        calls, lost = await api_use_of(conn, res.settings), await lost_webhooks(conn)
        return record, await metrics_of_workers(conn), await open_differences(conn), calls, lost.number
