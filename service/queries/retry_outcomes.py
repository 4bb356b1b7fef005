"""What became of the e-mails of a bulk retry: the newest that failed again, and the newest that were repaired."""

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.engine import connect
from service.queries.views import View

MAX_SHOWN = 50  # of each outcome
# No index has the outcomes of actions: so many of the newest are searched, which takes a fraction of a second.
SEARCHED = 200_000


class RetriedEmailView(View):
    """An e-mail of a bulk retry whose outcome is known, with its errors of now."""

    email_id: int
    outcome: Literal["repaired", "failed_again"]
    error_code: str | None
    sync_error_code: str | None


_OUTCOMES = text(f"""
    WITH newest AS (
        SELECT id, email_id, bulk_retry_id, outcome FROM operator_actions
        ORDER BY id DESC LIMIT (SELECT {SEARCHED})
    )
    SELECT email_id, chosen.outcome, left(error_code, 300) AS error_code, left(sync_error_code, 300) AS sync_error_code
    FROM unnest(ARRAY['failed_again', 'repaired']) AS wanted (outcome)
    CROSS JOIN LATERAL (
        SELECT * FROM newest WHERE bulk_retry_id = :bulk AND newest.outcome = wanted.outcome
        ORDER BY id DESC LIMIT {MAX_SHOWN}
    ) AS chosen
    JOIN incoming_emails AS email ON email.id = chosen.email_id
    ORDER BY chosen.id DESC
""").bindparams(bindparam("bulk", type_=BigInteger()))  # noqa: S608 numbers of ours


async def outcomes_of(engine: AsyncEngine, bulk_retry_id: int) -> Sequence[RetriedEmailView]:
    """Return the newest e-mails of a bulk retry with each outcome; those of a very old one are not found."""
    async with connect(engine) as conn:
        rows = await conn.execute(_OUTCOMES, {"bulk": bulk_retry_id})
        return [RetriedEmailView.model_validate(row) for row in rows]
