"""Failed e-mails that nobody dismissed, grouped by error and host."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.email_tables import OPEN_FAILED
from service.postgres.engine import connect
from service.postgres.rows import BRIEF_TEXT
from service.postgres.selection import NONE
from service.queries.views import Receipt, View

GROUP_CAP = 10_000  # e-mails counted per group
MAX_GROUPS = 100


class AcknowledgementView(View):
    """Who looks after a group of failures."""

    at: datetime
    by: str = Field(description="The person, and the entry point")
    note: str = Field(description="As the person wrote it")


class FailureGroup(View):
    """E-mails that failed with the same error at the same host; both are fields of the filter of a retry."""

    error_code: str  # `none` without a code
    host: str  # `none` if no host is the cause
    count: int
    capped: bool
    first_seen: Receipt  # when the oldest and the newest were received
    last_seen: Receipt
    last_day: int = Field(description="Received in the last 24 hours; at least so many if capped")
    day_before: int = Field(description="Received in the 24 hours before those; at least so many if capped")
    example_id: int  # the newest
    example_error: str | None
    acknowledgement: AcknowledgementView | None = Field(
        None, description="Null if nobody said so since the oldest of these failed e-mails came"
    )

    @property
    def has_newer(self) -> bool:
        """Whether e-mails came after the acknowledgement."""
        return self.acknowledgement is not None and self.last_seen > self.acknowledgement.at


class FailurePage(View):
    failures: Sequence[FailureGroup]  # the newest failure first
    capped: bool  # whether there are more groups


# A loose index scan over the groups.
_GROUPS = text(f"""
    WITH RECURSIVE next (code, host) AS (
        (
            SELECT coalesce(error_code, ''), coalesce(error_host, '') FROM incoming_emails
            WHERE {OPEN_FAILED} ORDER BY 1, 2 LIMIT 1
        )
        UNION ALL
        SELECT after.* FROM next CROSS JOIN LATERAL (
            SELECT coalesce(error_code, ''), coalesce(error_host, '') FROM incoming_emails
            WHERE {OPEN_FAILED}
            AND (coalesce(error_code, ''), coalesce(error_host, '')) > (next.code, next.host)
            ORDER BY 1, 2 LIMIT 1
        ) AS after
    ),
    groups AS (SELECT * FROM next LIMIT {MAX_GROUPS + 1})
    SELECT coalesce(nullif(code, ''), '{NONE}') AS error_code, coalesce(nullif(groups.host, ''), '{NONE}') AS host,
        counted.number AS count, counted.number = {GROUP_CAP} AS capped,
        first.received_at AS first_seen, last.received_at AS last_seen, recent.last_day, recent.day_before,
        last.id AS example_id, left(last.processing_error, {BRIEF_TEXT}) AS example_error,
        CASE WHEN note IS NOT NULL THEN json_build_object('at', known.at, 'by', known.by, 'note', note) END AS acknowledgement
    FROM groups
    CROSS JOIN LATERAL (
        SELECT count(*) AS number FROM (
            SELECT 1 FROM incoming_emails
            WHERE {OPEN_FAILED}
            AND coalesce(error_code, '') = code AND coalesce(error_host, '') = groups.host
            ORDER BY received_at LIMIT {GROUP_CAP}
        ) AS chosen
    ) AS counted
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE received_at > now() - interval '1 day') AS last_day,
            count(*) FILTER (WHERE received_at <= now() - interval '1 day') AS day_before
        FROM (
            SELECT received_at FROM incoming_emails
            WHERE {OPEN_FAILED}
            AND coalesce(error_code, '') = code AND coalesce(error_host, '') = groups.host
            AND received_at > now() - interval '2 days'
            ORDER BY received_at DESC LIMIT {GROUP_CAP}
        ) AS newest
    ) AS recent
    CROSS JOIN LATERAL (
        SELECT received_at FROM incoming_emails
        WHERE {OPEN_FAILED}
        AND coalesce(error_code, '') = code AND coalesce(error_host, '') = groups.host
        ORDER BY received_at, id LIMIT 1
    ) AS first
    CROSS JOIN LATERAL (
        SELECT id, received_at, processing_error FROM incoming_emails
        WHERE {OPEN_FAILED}
        AND coalesce(error_code, '') = code AND coalesce(error_host, '') = groups.host
        ORDER BY received_at DESC, id DESC LIMIT 1
    ) AS last
    LEFT JOIN acknowledgements AS known ON known.at >= first.received_at
        AND known.error_code = coalesce(nullif(code, ''), '{NONE}') AND known.host = coalesce(nullif(groups.host, ''), '{NONE}')
    ORDER BY last_seen DESC
""")  # noqa: S608 numbers and words of ours


async def list_failures(engine: AsyncEngine) -> FailurePage:
    """Return the groups of failed e-mails."""
    async with connect(engine) as conn:
        groups = [FailureGroup.model_validate(row) for row in await conn.execute(_GROUPS)]
    return FailurePage(failures=groups[:MAX_GROUPS], capped=len(groups) > MAX_GROUPS)
