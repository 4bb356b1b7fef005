"""The web application: its routes, its middlewares, and its resources."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from service.alerts.watch import alerting
from service.config.settings import Settings
from service.connect.secrets import learning
from service.postgres.engine import WEB
from service.resources import open_resources
from service.web import bodies, health, webhook
from service.web.api import docs
from service.web.auth import sign_in, tokens
from service.web.handling import middleware, requests, static
from service.web.handling.keys import RES
from service.web.pages import (
    acknowledge,
    alerts,
    buttons,
    complete,
    custody,
    dismissals,
    erasures,
    findings,
    live,
    logins,
    message,
    pages,
    previews,
    quarantine,
    receipts,
    retry,
    saved_filters,
    zone,
)

PAGES = (
    *pages.routes,
    *quarantine.routes,
    *saved_filters.routes,
    *acknowledge.routes,
    *zone.routes,
    *findings.routes,
    *complete.routes,
    *buttons.routes,
    *dismissals.routes,
    *custody.routes,
    *erasures.routes,
    *alerts.routes,
    *retry.routes,
    *message.routes,
    *previews.routes,
    *receipts.routes,
    *logins.routes,
    *live.routes,
    *docs.routes,
    *static.routes,
    *sign_in.routes,
)
ROUTES = (*docs.API, *PAGES)


def create_app(settings: Settings) -> web.Application:
    """Make the application; it opens its resources when it starts."""
    app = web.Application(middlewares=[middleware.problems, webhook.any_spelling, tokens.guard])
    app[bodies.BODIES] = bodies.IncomingBodies()
    app.on_response_prepare.append(middleware.add_headers)
    app[requests.TURNS] = asyncio.Semaphore(_turns(settings.database_pool_size))
    app[tokens.REFUSALS] = tokens.Refusals()
    app[tokens.READERS_PATHS] = frozenset(route.path for route in ROUTES if route.is_for_readers)
    app[tokens.OPEN_PATHS] = frozenset(route.path for route in ROUTES if route.is_open)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, route.handler)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, route.handler)

    async def resources(app: web.Application) -> AsyncIterator[None]:
        async with open_resources(settings, WEB) as res, alerting(res), learning(res):
            app[RES] = res
            yield

    app.cleanup_ctx.extend([resources, health.open_answers, live.open_live])
    app.on_shutdown.append(live.end_streams)
    return app


def _turns(pool_size: int) -> int:
    """Return how many connections pages and the API may use: half, and at least two stay free for webhooks."""
    return max(1, pool_size - max(2, pool_size // 2))
