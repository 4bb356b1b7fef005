"""An alert as a message: what happened, how often, an example, and a link. Nothing in it is of a customer."""

from datetime import datetime
from urllib.parse import quote, urlencode

from service.alerts.deliveries import Delivery
from service.alerts.finding import clock
from service.alerts.notice import Notice
from service.formatting import duration
from service.postgres.selection import NONE

_PATHS = {
    "quarantine": "/quarantine",
    "waiting": "/emails?status=queued",
    "no_worker": "/emails?status=queued",
    "reconciliation": "/reconciliations",
}
_OVER = {
    "failures": "No e-mail is left that failed so within the last 24 hours.",
    "quarantine": "No webhook of the last 24 hours waits in quarantine for this reason.",
    "waiting": "No e-mail waits for so long any more.",
    "silence": "Webhooks come again.",
    "signatures": "Webhooks come with good signatures again.",
    "workers": "All workers are there, or others in their place.",
    "no_worker": "There is a worker again, or nothing is due.",
    "sync": "No finished e-mail waits for so long any more, and none is left whose sync failed within the last 24 hours.",
    "credentials": "The credentials for Zendesk are an OAuth client.",
    "zendesk": "No e-mail waits for Zendesk's API for so long any more.",
    "connections": "Postgres has connections again.",
    "reconciliation": "What is there is compared again, and it is as it is on record.",
    "reconciliation restored": "It was told for a day. What was not brought back is missing still.",
}

# After a rollback, an alert may have a cause that only the newer version knows.
_ENDED = "It is over."


def compose(delivery: Delivery, public_url: str | None) -> Notice:
    """Put the news of an alert into words."""
    base = public_url.rstrip("/") if public_url else None
    is_over = delivery.news == "resolved" and delivery.resolved_at is not None
    lines = [delivery.detail, f"Since {clock(delivery.opened_at)}."]
    if is_over and delivery.resolved_at:
        lasted = duration(delivery.resolved_at - delivery.opened_at)
        over = _OVER.get(f"{delivery.cause} {delivery.key}") or _OVER.get(delivery.cause, _ENDED)
        lines = [over, f"It began at {clock(delivery.opened_at)} and lasted {lasted}."]
    elif base and delivery.email_id is not None:
        lines.append(f"The example: {base}/emails/{delivery.email_id}")
    if not base:
        lines.append("(Set PUBLIC_URL to have links here.)")
    return Notice(
        id=_id(delivery, delivery.news),
        kind=f"alert.{delivery.news}",
        at=delivery.at,
        title=f"Over: {delivery.summary}" if is_over else delivery.summary,
        text="\n".join(lines),
        link=f"{base}{_path(delivery.cause, delivery.key)}" if base else None,
        follows=_id(delivery, "opened") if is_over else None,
        data={
            "id": delivery.alert_id,
            "cause": delivery.cause,
            "key": delivery.key,
            "count": delivery.count,
            "email_id": delivery.email_id,
            "opened_at": delivery.opened_at.isoformat(),
            "resolved_at": delivery.resolved_at.isoformat() if delivery.resolved_at else None,
        },
    )


def trial(now: datetime, public_url: str | None) -> Notice:
    """Make the message of a test."""
    return Notice(
        id=f"alert_test_{now:%Y%m%d%H%M%S%f}",
        kind="alert.test",
        at=now,
        title="A test of the alerts",
        text="If you can read this, alerts reach you here. Nothing is the matter.",
        link=f"{public_url.rstrip('/')}/" if public_url else None,
    )


def _path(cause: str, key: str) -> str:
    """Name the page that shows what is the matter: of failures, the list of just these."""
    if cause != "failures":
        return _PATHS.get(cause, "/")
    code, _, host = key.partition("@")
    query = {"status": "failed", "error_code": code or NONE}
    if host != "*":  # which stands for several
        query["host"] = host or NONE
    return f"/emails?{urlencode(query, quote_via=quote)}"


def _id(delivery: Delivery, news: str) -> str:
    """Name a message, the same each time it is sent, and another one in every database."""
    return f"alert_{delivery.alert_id}_{delivery.opened_at:%Y%m%d%H%M%S%f}_{news}"
