"""The newest webhooks, and what became of each: an e-mail, a further webhook about one, quarantine, or nothing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.engine import connect
from service.postgres.rows import BRIEF_TEXT
from service.queries.views import Receipt, View

MAX_EACH = 200


class ArrivalView(View):
    """A webhook with a valid signature, and what became of it."""

    kind: Literal["email", "announcement", "quarantined", "ignored"] = Field(
        description="It made an e-mail, was a further one about an e-mail, cannot be parsed, or has an unused type"
    )
    id: int = Field(description="Of the e-mail, the announcement, or the kept webhook")
    at: Receipt
    email_id: int | None
    zendesk_ticket_id: str | None
    subject: str | None
    reason: str | None = Field(description="The error of a quarantined one, or the type of an ignored one")


class BadSignaturesView(View):
    """Webhooks without a valid signature, which are not kept: how many came in a row, until when."""

    count: int
    code: str | None
    at: datetime


class ArrivalPage(View):
    """The newest webhooks of each kind, oldest first, and refused ones since the last valid one."""

    arrivals: Sequence[ArrivalView]
    refused: BadSignaturesView | None


async def list_arrivals(engine: AsyncEngine) -> ArrivalPage:
    """Return up to MAX_EACH webhooks of each kind."""
    async with connect(engine) as conn:
        rows = (await conn.execute(_NEWEST)).all()
        refused = (await conn.execute(_REFUSED)).one_or_none()
    return ArrivalPage(
        arrivals=[ArrivalView.model_validate(row) for row in rows],
        refused=None if refused is None else BadSignaturesView.model_validate(refused),
    )


_NEWEST = text(f"""
SELECT * FROM (
    (
        SELECT 'email' AS kind, id, received_at AS at, id AS email_id, zendesk_ticket_id,
            left(subject, {BRIEF_TEXT}) AS subject, NULL AS reason
        FROM (SELECT * FROM incoming_emails ORDER BY id DESC LIMIT {MAX_EACH}) AS newest
        WHERE origin = 'webhook'
    ) UNION ALL (
        SELECT 'announcement', newest.id, newest.received_at, newest.email_id, email.zendesk_ticket_id,
            left(email.subject, {BRIEF_TEXT}), NULL
        FROM (SELECT * FROM announcements ORDER BY id DESC LIMIT {MAX_EACH}) AS newest
        JOIN incoming_emails AS email ON email.id = newest.email_id
    ) UNION ALL (
        SELECT 'quarantined', id, received_at, email_id, NULL, NULL, left(error_code || ': ' || error, {BRIEF_TEXT})
        FROM quarantined_webhooks ORDER BY id DESC LIMIT {MAX_EACH}
    ) UNION ALL (
        SELECT 'ignored', id, received_at, email_id, NULL, NULL, left(event_type, {BRIEF_TEXT})
        FROM ignored_webhooks ORDER BY id DESC LIMIT {MAX_EACH}
    )
) AS arrivals ORDER BY at, kind, id
""")  # noqa: S608 numbers of ours
_REFUSED = text("""
SELECT bad_signatures AS count, bad_signature_code AS code, bad_signature_at AS at FROM alert_watch
WHERE bad_signatures > 0 AND bad_signature_at IS NOT NULL
""")
