"""Failures in groups: what is wrong, where, how often, and since when."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.engine import connect
from service.postgres.rows import BRIEF_TEXT
from service.postgres.selection import NONE
from service.queries.views import Receipt, View

GROUP_CAP = 10_000  # counted of one group
MOST_GROUPS = 100


class FailureGroup(View):
    """E-mails that failed for one reason, at one host; to retry them, take both as a filter."""

    error_code: str  # `none` where there is no code
    host: str  # `none` where no file's host is to blame
    count: int
    capped: bool
    first_seen: Receipt  # when the first and the last of them were received
    last_seen: Receipt
    example_id: int  # the newest
    example_error: str | None


class FailurePage(View):
    failures: Sequence[FailureGroup]  # the one that was seen last comes first
    capped: bool  # there are more


# From one group to the next by the index, without reading what is in it.
_GROUPS = text(f"""
    WITH RECURSIVE next (code, host) AS (
        (
            SELECT coalesce(error_code, ''), coalesce(error_host, '') FROM incoming_emails
            WHERE processing_status = 'failed' ORDER BY 1, 2 LIMIT 1
        )
        UNION ALL
        SELECT after.* FROM next CROSS JOIN LATERAL (
            SELECT coalesce(error_code, ''), coalesce(error_host, '') FROM incoming_emails
            WHERE processing_status = 'failed'
            AND (coalesce(error_code, ''), coalesce(error_host, '')) > (next.code, next.host)
            ORDER BY 1, 2 LIMIT 1
        ) AS after
    ),
    groups AS (SELECT * FROM next LIMIT {MOST_GROUPS + 1})
    SELECT coalesce(nullif(code, ''), '{NONE}') AS error_code, coalesce(nullif(host, ''), '{NONE}') AS host,
        counted.number AS count, counted.number = {GROUP_CAP} AS capped,
        first.received_at AS first_seen, last.received_at AS last_seen,
        last.id AS example_id, left(last.processing_error, {BRIEF_TEXT}) AS example_error
    FROM groups
    CROSS JOIN LATERAL (
        SELECT count(*) AS number FROM (
            SELECT 1 FROM incoming_emails
            WHERE processing_status = 'failed'
            AND coalesce(error_code, '') = code AND coalesce(error_host, '') = groups.host
            ORDER BY received_at LIMIT {GROUP_CAP}
        ) AS chosen
    ) AS counted
    CROSS JOIN LATERAL (
        SELECT received_at FROM incoming_emails
        WHERE processing_status = 'failed'
        AND coalesce(error_code, '') = code AND coalesce(error_host, '') = groups.host
        ORDER BY received_at, id LIMIT 1
    ) AS first
    CROSS JOIN LATERAL (
        SELECT id, received_at, processing_error FROM incoming_emails
        WHERE processing_status = 'failed'
        AND coalesce(error_code, '') = code AND coalesce(error_host, '') = groups.host
        ORDER BY received_at DESC, id DESC LIMIT 1
    ) AS last
    ORDER BY last_seen DESC
""")  # noqa: S608 numbers and words of ours


async def list_failures(engine: AsyncEngine) -> FailurePage:
    """Return the groups of all that failed."""
    async with connect(engine) as conn:
        groups = [FailureGroup.model_validate(row) for row in await conn.execute(_GROUPS)]
    return FailurePage(failures=groups[:MOST_GROUPS], capped=len(groups) > MOST_GROUPS)
