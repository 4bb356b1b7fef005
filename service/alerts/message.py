"""The message of an alert: the condition, its count, an example and a link; never personal data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from service.alerts.condition import clock
from service.alerts.deliveries import Delivery
from service.formatting import duration
from service.postgres.selection import NONE

_PATHS = {
    "quarantine": "/quarantine",
    "waiting": "/emails?status=queued",
    "no_worker": "/emails?status=queued",
    "reconciliation": "/reconciliations",
    "sync deletions": "/receipts",
}
_RESOLVED = {
    "failures": "No e-mail of the last 24 hours is still failed with this error.",
    "quarantine": "No webhook of the last 24 hours is still in quarantine with this error.",
    "waiting": "No e-mail waits too long any more.",
    "silence": "Webhooks arrive again.",
    "signatures": "Webhooks have valid signatures again.",
    "workers": "All workers are running, or were replaced.",
    "no_worker": "A worker is running again, or no e-mail is due.",
    "sync": "No sync waits too long any more, and no sync of the last 24 hours is still failed.",
    "drift": "Webhook and trigger at Zendesk are as they should be, and webhooks arrive.",
    "credentials": "The credentials for Zendesk are an OAuth client.",
    "zendesk": "No e-mail waits too long for Zendesk's API any more.",
    "connections": "Postgres has free connections again.",
    "reconciliation": "Reconciliations run again, and nothing differs.",
    "lost": "No webhook of the last 24 hours was lost, or a day passed since.",
    "backfill": "Zendesk is searched for lost e-mails again.",
    "suspended": "Zendesk holds back no e-mail of the last 24 hours as suspended.",
    "suspended late": "Zendesk's suspended e-mails are kept again.",
    "evidence": "A verification of the evidence log ended, and nothing on record differs from it.",
    "sync deletions": "The targets were told of all e-mails that were removed more than a day ago.",
    "reconciliation restored": "This alert ends after one day. E-mails that were not restored are still missing.",
}

# An alert may have a cause that only a newer version knows, after a rollback.
_RESOLVED_OTHER = "The problem is resolved."


@dataclass(frozen=True)
class Notice:
    """A message for any channel; `id` stays the same when the message is sent again, so receivers can detect it.

    Title and text contain only printable characters, the title in one line. Each channel escapes its own markup.
    """

    id: str
    kind: str  # for programs, such as `alert.opened`
    at: datetime
    title: str
    text: str
    link: str | None = None
    follows: str | None = None  # the id of the earlier message of the same alert
    data: Mapping[str, Any] = field(default_factory=dict)  # for programs, as JSON


def compose(delivery: Delivery, public_url: str | None) -> Notice:
    """Make the message about the beginning or the end of an alert."""
    base = public_url.rstrip("/") if public_url else None
    is_resolved = delivery.news == "resolved" and delivery.resolved_at is not None
    lines = [delivery.detail, f"Since {clock(delivery.opened_at)}."]
    if is_resolved and delivery.resolved_at:
        lasted = duration(delivery.resolved_at - delivery.opened_at)
        reason = _RESOLVED.get(f"{delivery.cause} {delivery.key}") or _RESOLVED.get(
            delivery.cause, _RESOLVED_OTHER
        )
        lines = [reason, f"It began at {clock(delivery.opened_at)} and lasted {lasted}."]
    elif base and delivery.email_id is not None:
        lines.append(f"Example: {base}/emails/{delivery.email_id}")
    if not base:
        lines.append("(Set PUBLIC_URL to get links here.)")
    return Notice(
        id=_id(delivery, delivery.news),
        kind=f"alert.{delivery.news}",
        at=delivery.at,
        title=f"Resolved: {delivery.summary}" if is_resolved else delivery.summary,
        text="\n".join(lines),
        link=f"{base}{_path(delivery.cause, delivery.key)}" if base else None,
        follows=_id(delivery, "opened") if is_resolved else None,
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


def test_notice(now: datetime, public_url: str | None) -> Notice:
    """Make the message that tests a channel."""
    return Notice(
        id=f"alert_test_{now:%Y%m%d%H%M%S%f}",
        kind="alert.test",
        at=now,
        title="Test of the alerts",
        text="This channel works. Nothing is wrong.",
        link=f"{public_url.rstrip('/')}/" if public_url else None,
    )


def _path(cause: str, key: str) -> str:
    """Return the path of the page that shows the condition; for failures, the list with their filter."""
    if cause != "failures":
        return _PATHS.get(f"{cause} {key}", _PATHS.get(cause, "/"))
    code, _, host = key.partition("@")
    query = {"status": "failed", "error_code": code or NONE}
    if host != "*":  # stands for several hosts
        query["host"] = host or NONE
    return f"/emails?{urlencode(query, quote_via=quote)}"


def _id(delivery: Delivery, news: str) -> str:
    """Return the id of a message: the same for each sending, different in every database."""
    return f"alert_{delivery.alert_id}_{delivery.opened_at:%Y%m%d%H%M%S%f}_{news}"
