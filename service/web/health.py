"""What a platform asks: is the process alive, can it work, and how much of what."""

import asyncio
import time
from collections.abc import Awaitable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.database import within
from service.errors import HoldfastError
from service.metrics import EMAILS, OLDEST_WAITING
from service.queries import overview
from service.storage import objects
from service.web.keys import RES

PROBE_SECONDS = 3.0


async def healthz(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """Name each thing that we depend on; 503 if any is away.

    Do not route the webhook by it: taking e-mails in needs Postgres alone.
    """
    res = request.app[RES]
    names = ("database", "redis", "storage")
    probes = await asyncio.gather(
        _probe(within(PROBE_SECONDS, overview.ping(res.engine))),
        _probe(res.redis.ping()),
        _probe(objects.check(res.storage)),
    )
    ready = all(probe["ok"] for probe in probes)
    return web.json_response(
        {"status": "ready" if ready else "not_ready", "checks": dict(zip(names, probes, strict=True))},
        status=200 if ready else 503,
    )


async def metrics(request: web.Request) -> web.Response:
    """Answer in Prometheus' text format; what Postgres knows is left out while it is away."""
    EMAILS.clear()
    try:
        stats = await within(PROBE_SECONDS, overview.stats(request.app[RES].engine))
    except HoldfastError:
        OLDEST_WAITING.set(float("nan"))
    else:
        for status, count in stats.by_status.items():
            EMAILS.labels(status).set(count)
        OLDEST_WAITING.set(stats.oldest_waiting_seconds or 0)
    text = await asyncio.to_thread(generate_latest)  # it reads files below /proc
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _probe(check: Awaitable[object]) -> dict[str, object]:
    began = time.monotonic()
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await check
    except Exception as exc:  # noqa: BLE001 whatever it is, it is the answer
        return {"ok": False, "error": type(exc).__name__}
    return {"ok": True, "milliseconds": round(1000 * (time.monotonic() - began), 1)}
