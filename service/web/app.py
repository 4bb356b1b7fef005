"""The application and its routes."""

from collections.abc import AsyncIterator

from aiohttp import web

from service.alerts.watch import alerting
from service.config.settings import Settings
from service.resources import open_resources
from service.web import api, auth, health, middleware, quarantine, webhook
from service.web.keys import RES


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
        async with open_resources(settings) as res, alerting(res):
            app[RES] = res
            yield

    app.cleanup_ctx.append(resources)
    return app
