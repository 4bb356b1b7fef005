"""The application: its routes, what stands before them, and the resources that it opens."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from service.alerts.watch import alerting
from service.config.settings import Settings
from service.database import WEB
from service.resources import open_resources
from service.web import auth, bodies, exchange, health, middleware, webhook
from service.web.dashboard.routes import add_dashboard
from service.web.keys import RES
from service.web.pages import PAGES
from service.web.routes import API


def create_app(settings: Settings) -> web.Application:
    """Make the application; it opens its resources when it starts."""
    app = web.Application(middlewares=[middleware.problems, webhook.any_spelling, auth.guard])
    app[bodies.LOAD] = bodies.Load()
    app.on_response_prepare.append(middleware.add_headers)
    app[exchange.TURNS] = asyncio.Semaphore(_turns(settings.database_pool_size))
    app[auth.REFUSALS] = auth.Refusals()
    app[auth.OPEN_PATHS] = frozenset(way.path for way in (*API, *PAGES) if way.is_open)
    for way in (*API, *PAGES):
        app.router.add_route(way.method, way.path, way.handler)
        if way.method == "GET":
            app.router.add_route("HEAD", way.path, way.handler)

    async def resources(app: web.Application) -> AsyncIterator[None]:
        async with open_resources(settings, WEB) as res, alerting(res):
            app[RES] = res
            yield

    app.cleanup_ctx.append(resources)
    app.cleanup_ctx.append(health.open_answers)
    add_dashboard(app)
    return app


def _turns(pool_size: int) -> int:
    """Return how many connections pages and the API may use: half, and two less than all, for webhooks use two."""
    return max(1, pool_size - max(2, pool_size // 2))
