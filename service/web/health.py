"""What a platform asks: is the process alive, can it work, and how much of what."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from service.errors import HoldfastError, certificate_problem
from service.postgres.engine import connect, pool_of, within
from service.postgres.pool import TOO_MANY
from service.queries import overview
from service.queries.overview import Stats
from service.queries.views import View
from service.queries.workers import metrics_of_workers
from service.queue.arq_queue import reason_of
from service.reconcile.differences import Differences, open_differences
from service.resources import Resources, background
from service.storage import objects
from service.telemetry.exposition import exposition
from service.telemetry.version import commit, version
from service.web.handling.keys import RES
from service.web.handling.routes import Routes
from service.web.handling.shared import Shared

PROBE_SECONDS = 3.0
# A platform may wait no longer for what needs no target.
TARGET_SECONDS = 1.0
NEEDED = ("database", "redis", "storage")  # to do the work; a target may wait


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
    detail: str | None = Field(None, description="what to do if Postgres refuses connections")


class Readiness(View):
    """Whether the process can work, and the state of each dependency; it can work without targets."""

    status: Literal["ready", "not_ready"]
    checks: Mapping[Literal["database", "redis", "storage", "mongodb"], Probe]


@dataclass(frozen=True)
class Answers:
    """What costs something to find out, and anybody may ask for: once at a time, for all who ask meanwhile."""

    checks: Shared[Mapping[str, Mapping[str, object]]]
    metrics: Shared[bytes]


ANSWERS = web.AppKey("answers", Answers)
ALIVE: web.AppKey[Mapping[str, str]] = web.AppKey("alive")


async def open_answers(app: web.Application) -> AsyncIterator[None]:
    """Have them while the application runs, after its resources were opened."""
    res = app[RES]
    app[ALIVE] = {
        "status": "ok",
        **await asyncio.to_thread(lambda: {"version": version(), "commit": commit()}),
    }
    answers = app[ANSWERS] = Answers(Shared(lambda: probe_all(res), 0), Shared(lambda: _metrics(res), 0))
    async with background(lambda: _tell_once(res)):
        yield
    await answers.checks.close()
    await answers.metrics.close()


@routes.get("/healthz", is_open=True, answer=Health)
async def healthz(request: web.Request) -> web.Response:
    """Tell that the process is alive."""
    return web.json_response(request.app[ALIVE])


async def _tell_once(res: Resources) -> None:
    """Log at the start what a wrong REDIS_URL would else show with the first webhook; then wait for the end."""
    told = await _probe(res.redis.ping())
    if not told["ok"]:
        log.warning("redis_away", error=told["error"])
    await asyncio.Event().wait()


@routes.get("/readyz", is_open=True, answer=Readiness, also=(503,))
async def readyz(request: web.Request) -> web.Response:
    """Tell whether the process can work, and which dependencies are down.

    503 if intake or capture lack one. Do not route the webhook by it: intake needs Postgres alone.
    """
    checks = await request.app[ANSWERS].checks.get()
    ready = all(checks[name]["ok"] for name in NEEDED)
    return web.json_response(
        {"status": "ready" if ready else "not_ready", "checks": checks}, status=200 if ready else 503
    )


async def probe_all(
    res: Resources, target_seconds: float = TARGET_SECONDS
) -> Mapping[str, Mapping[str, object]]:
    """Say of each thing that we depend on, and of targets, whether it answers in time."""
    probes = {
        "database": _probe_database(res),
        "redis": _probe(res.redis.ping()),
        "storage": _probe(objects.check(res.storage)),
        **{
            target.name: _probe(target.check(), target_seconds)
            for target in res.targets
            if target.can_be_tried
        },
    }
    return dict(zip(probes, await asyncio.gather(*probes.values()), strict=True))


async def _probe_database(res: Resources) -> dict[str, object]:
    """Also say, where this process works with the connections that it has, that Postgres refuses it another one."""
    found = await _probe(overview.ping(res.engine), PROBE_SECONDS + 1)  # it has a budget of its own
    pool = pool_of(res.engine)
    return {**found, "detail": pool.complaint().message} if found["ok"] and pool.was_refused else found


@routes.get("/metrics", is_open=True, media_type="text/plain")
async def metrics(request: web.Request) -> web.Response:
    """Show metrics in Prometheus' text format.

    Those of the workers are included, and those from Postgres, unless it is down.
    """
    text = await request.app[ANSWERS].metrics.get()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _metrics(res: Resources) -> bytes:
    recorded: tuple[Stats | None, dict[str, str] | None, Differences | None] = (None, None, None)
    with suppress(HoldfastError):
        recorded = await within(PROBE_SECONDS, _recorded(res))
    return await asyncio.to_thread(exposition, *recorded)  # it reads files


async def _recorded(res: Resources) -> tuple[Stats, dict[str, str], Differences]:
    record = await overview.stats(res.engine)
    async with connect(res.engine) as conn:
        return record, await metrics_of_workers(conn), await open_differences(conn)


async def _probe(check: Awaitable[object], seconds: float = PROBE_SECONDS) -> dict[str, object]:
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            await check
    except HoldfastError as exc:
        # Other messages may name what a stranger need not know: this path needs no token.
        told = {"detail": exc.message} if exc.code == TOO_MANY else {}
        return {"ok": False, "error": exc.message if certificate_problem(exc) else exc.code, **told}
    except Exception as exc:  # noqa: BLE001 whatever it is, it is the answer
        return {"ok": False, "error": reason_of(exc)}
    return {"ok": True, "milliseconds": round(1000 * (time.monotonic() - began), 1)}
