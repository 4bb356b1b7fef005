"""The application: its routes, what stands before them, and the resources that it opens."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from service.alerts.watch import alerting
from service.config.settings import Settings
from service.postgres.engine import WEB
from service.resources import open_resources
from service.web import bodies, health, webhook
from service.web.api import docs
from service.web.api.routes import API
from service.web.auth import sign_in, tokens
from service.web.handling import exchange, middleware, static
from service.web.handling.keys import RES
from service.web.handling.route import Page
from service.web.pages.routes import DASHBOARD, add_dashboard

PAGES = (
    *DASHBOARD,
    Page(method="GET", path="/openapi.json", handler=docs.openapi_json, is_open=True),
    Page(method="GET", path="/docs", handler=docs.page, is_open=True),
    Page(method="GET", path="/static/{name}", handler=static.serve, is_open=True),
    Page(method="GET", path="/sign-in", handler=sign_in.page, is_open=True),
    Page(method="POST", path="/sign-in", handler=sign_in.sign_in, is_open=True),
    Page(method="POST", path="/sign-out", handler=sign_in.sign_out, is_open=True),
)


def create_app(settings: Settings) -> web.Application:
    """Make the application; it opens its resources when it starts."""
    app = web.Application(middlewares=[middleware.problems, webhook.any_spelling, tokens.guard])
    app[bodies.LOAD] = bodies.Load()
    app.on_response_prepare.append(middleware.add_headers)
    app[exchange.TURNS] = asyncio.Semaphore(_turns(settings.database_pool_size))
    app[tokens.REFUSALS] = tokens.Refusals()
    app[tokens.OPEN_PATHS] = frozenset(way.path for way in (*API, *PAGES) if way.is_open)
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
