"""The page of alerts: which are open, which are past, and who was told what and when."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from aiohttp import web
from yarl import URL

from service.alerts.channels import channel_names
from service.config.settings import Settings
from service.queries.alerts import list_alerts
from service.web.handling.keys import RES
from service.web.handling.requests import ask
from service.web.handling.routes import Routes
from service.web.pages.frame import show

routes = Routes()

MOST = 100
NAMES: Mapping[str, str] = MappingProxyType({"mail": "Mail", "slack": "Slack", "webhook": "Webhook"})


@routes.get("/alerts")
async def show_alerts(request: web.Request) -> web.Response:
    """Show the open alerts, and the newest of the past ones."""
    res = request.app[RES]
    page = await ask(request, list_alerts(res.engine, MOST))
    return await show(
        request,
        "alerts.html",
        open_alerts=[alert for alert in page.alerts if alert.resolved_at is None],
        past=[alert for alert in page.alerts if alert.resolved_at is not None],
        is_cut=len(page.alerts) == MOST,
        names=NAMES,
        told=recipients(res.settings),
    )


def recipients(settings: Settings) -> Sequence[tuple[str, str]]:
    """Return each channel that is set up, with its receivers; of an address only the host, since the rest is secret."""
    urls = {"slack": settings.alert_slack_url, "webhook": settings.alert_webhook_url}
    return [
        (
            NAMES[channel],
            ", ".join(settings.alert_email_to) if channel == "mail" else _host(urls[channel]),
        )
        for channel in channel_names(settings)
    ]


def _host(address: object) -> str:
    secret = getattr(address, "get_secret_value", None)
    return URL(secret()).host or "" if secret else ""
