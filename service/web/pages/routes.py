"""The dashboard's routes."""

from aiohttp import web

from service.web.handling.route import Page
from service.web.pages import buttons, live, pages, previews

DASHBOARD = (
    Page(method="GET", path="/", handler=pages.show_overview),
    Page(method="GET", path="/emails", handler=pages.list_emails),
    Page(method="GET", path="/emails/{id}", handler=pages.show_email),
    Page(method="POST", path="/emails/{id}/retry", handler=buttons.retry_email),
    Page(method="POST", path="/emails/{id}/sync", handler=buttons.sync_email),
    Page(method="GET", path="/emails/{id}/attachments/{position}/preview", handler=previews.show),
    Page(method="GET", path="/failures", handler=pages.list_failures),
    Page(method="GET", path="/quarantine", handler=pages.list_quarantined),
    Page(method="GET", path="/quarantine/{id}", handler=pages.show_quarantined),
    Page(method="POST", path="/quarantine/{id}/replay", handler=buttons.replay),
    Page(method="GET", path="/retries", handler=pages.list_retries),
    Page(method="GET", path="/retries/plan", handler=buttons.plan_retry),
    Page(method="POST", path="/retries", handler=buttons.start_retry),
    Page(method="POST", path="/retries/{id}/cancel", handler=buttons.cancel_retry),
    Page(method="GET", path="/reconciliations", handler=pages.list_reconciliations),
    Page(method="GET", path="/reconciliations/{id}", handler=pages.show_reconciliation),
    Page(method="GET", path="/activity", handler=pages.list_actions),
    Page(method="GET", path="/live/overview", handler=live.stream_overview),
    Page(method="GET", path="/live/changes", handler=live.stream_changes),
)


def add_dashboard(app: web.Application) -> None:
    """Let the application have what its pages look at; call it after its resources."""
    app.cleanup_ctx.append(live.open_live)
    app.on_shutdown.append(live.end_streams)
