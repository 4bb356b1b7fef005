"""Lost webhooks: e-mails that Zendesk has and never announced."""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import BigInteger, Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import UNANNOUNCED
from service.postgres.source_tables import LOST

# Lost webhooks of this time are reported.
RECENT = timedelta(days=1)
# So many of the newest e-mails without a webhook are looked at.
MOST_READ = 10_000


class LostWebhooks(NamedTuple):
    """How many webhooks were lost, by the e-mails that were found within a day; with the newest of these."""

    number: int
    email_id: int | None
    found_at: datetime | None


async def lost_webhooks(conn: AsyncConnection) -> LostWebhooks:
    """Count the lost webhooks of the last day."""
    return LostWebhooks(*(await conn.execute(_LOST)).one())


_LOST = text(f"""
SELECT count(*), max(id), max(received_at) FROM incoming_emails
WHERE id IN (SELECT id FROM incoming_emails WHERE {UNANNOUNCED} ORDER BY id DESC LIMIT :most)
    AND received_at > now() - :recent AND {LOST}
""").bindparams(  # noqa: S608 constants of ours
    bindparam("most", MOST_READ, BigInteger()), bindparam("recent", RECENT, Interval())
)
