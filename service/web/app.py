"""The application and its routes, and the server that runs it."""

from collections.abc import AsyncIterator

import structlog
import uvloop
from aiohttp import web

from service import logs
from service.config.settings import Settings
from service.resources import background, open_resources
from service.watchdog import watch
from service.web import api, auth, health, middleware, quarantine, webhook
from service.web.keys import RES

# A platform kills a process 30 s after it asked it to end.
SHUTDOWN_SECONDS = 20.0
# Connections that wait to be accepted; the kernel drops what comes beyond them without a word.
BACKLOG = 4096
# Heroku's router keeps idle connections for 90 s, and must not send a webhook on one that we just closed.
KEEP_ALIVE_SECONDS = 95.0
# What a head may hold before anybody has vouched for it; Zendesk's, with a router's additions, is under 2 kB.
MOST_LINE_BYTES = 4096
MOST_HEADERS = 64
# An event loop that stood still for so long has lost every webhook that came meanwhile.
HANG_SECONDS = 30.0

log = structlog.get_logger()


def create_app(settings: Settings) -> web.Application:
    """Make the application; it opens its resources when it starts."""
    app = web.Application(middlewares=[middleware.problems, auth.bearer])
    app[webhook.LOAD] = webhook.Load()
    app.router.add_post(middleware.WEBHOOK_PATH, webhook.receive)
    app.router.add_get("/healthz", health.healthz)
    app.router.add_get("/readyz", health.readyz)
    app.router.add_get("/metrics", health.metrics)
    app.router.add_get("/api/v1/emails", api.list_emails)
    app.router.add_get("/api/v1/emails/{id}", api.show_email)
    app.router.add_get("/api/v1/emails/{id}/attachments/{position}/content", api.attachment_content)
    app.router.add_post("/api/v1/emails/{id}/retry", api.retry_email)
    app.router.add_get("/api/v1/quarantine", quarantine.list_quarantined)
    app.router.add_get("/api/v1/quarantine/{id}", quarantine.show_quarantined)
    app.router.add_post("/api/v1/quarantine/{id}/replay", quarantine.replay)
    app.router.add_get("/api/v1/stats", api.stats)

    async def resources(app: web.Application) -> AsyncIterator[None]:
        async with open_resources(settings) as res:
            app[RES] = res
            yield

    app.cleanup_ctx.append(resources)
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then accept nothing new and finish what is under way."""
    logs.configure(settings.log_format, settings.log_level)
    app = create_app(settings)
    app.cleanup_ctx.append(_watched)
    web.run_app(
        app,
        host=settings.host,
        port=settings.port,
        shutdown_timeout=SHUTDOWN_SECONDS,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
        auto_decompress=False,
        backlog=BACKLOG,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        max_line_size=MOST_LINE_BYTES,
        max_field_size=MOST_LINE_BYTES,
        max_headers=MOST_HEADERS,
    )


async def _watched(_: web.Application) -> AsyncIterator[None]:
    async with background(lambda: watch(HANG_SECONDS)):
        yield
