"""What arrived here lately: the first e-mail after a connection, and the newest webhook."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True)
class FirstEmail:
    """An e-mail that arrived."""

    id: int
    ticket_id: str
    status: str
    error: str | None

    @property
    def is_finished(self) -> bool:
        return self.status in {"completed", "failed"}

    @property
    def line(self) -> str:
        error = f": {self.error}" if self.error and self.status == "failed" else ""
        return f"E-mail {self.id} of ticket {self.ticket_id} is {self.status}{error}."


async def newest_email(conn: AsyncConnection) -> int:
    """Return the id of the newest e-mail; 0 if there is none."""
    return int(await conn.scalar(_NEWEST_EMAIL) or 0)


async def first_email(conn: AsyncConnection, after: int) -> FirstEmail | None:
    """Return the first e-mail with a larger id that a webhook announced."""
    row = (await conn.execute(_FIRST_EMAIL, {"after": after})).one_or_none()
    return None if row is None else FirstEmail(*row)


async def newest_webhook(conn: AsyncConnection) -> datetime | None:
    """Return when the newest request of Zendesk was saved, whatever became of it; None if there is none.

    It is now if the newest e-mails are too many that no webhook announced.
    """
    newest: datetime | None = await conn.scalar(_NEWEST_WEBHOOK)
    return newest


_NEWEST_EMAIL = text("SELECT max(id) FROM incoming_emails")
_FIRST_EMAIL = text("""
SELECT id, zendesk_ticket_id, processing_status, processing_error FROM incoming_emails
WHERE id > :after AND origin = 'webhook' ORDER BY id LIMIT 1
""")
_NEWEST_WEBHOOK = text("""
SELECT greatest(
    (
        SELECT coalesce(
            max(received_at) FILTER (WHERE origin = 'webhook'), CASE WHEN count(*) = 5000 THEN now() END
        )
        FROM (SELECT received_at, origin FROM incoming_emails ORDER BY id DESC LIMIT 5000) AS newest
    ),
    (SELECT received_at FROM announcements ORDER BY id DESC LIMIT 1),
    (SELECT received_at FROM ignored_webhooks ORDER BY id DESC LIMIT 1),
    (SELECT received_at FROM quarantined_webhooks ORDER BY id DESC LIMIT 1)
)
""")
