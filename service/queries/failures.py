"""Failed e-mails that nobody dismissed, grouped by error and host."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.email_tables import OPEN_FAILED
from service.postgres.engine import connect
from service.postgres.failure_groups import WITH_KINDS
from service.postgres.rows import BRIEF_TEXT
from service.postgres.selection import NONE
from service.queries.views import Receipt, View

GROUP_CAP = 10_000  # e-mails counted per group
MAX_GROUPS = 100
MOST_HOSTS = 20  # of one code, before those of others


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


# The newest groups, and of each code at least the newest hosts: those of another code hide none of them.
_GROUPS = text(f"""
    {WITH_KINDS}, groups AS (
        SELECT kind.code, kind.host, last.id, last.received_at, last.processing_error, count(*) OVER () AS total
        FROM kind CROSS JOIN LATERAL (
            SELECT id, received_at, processing_error FROM incoming_emails
            WHERE {OPEN_FAILED}
            AND coalesce(error_code, '') = kind.code AND coalesce(error_host, '') = kind.host
            ORDER BY received_at DESC, id DESC LIMIT 1
        ) AS last
        ORDER BY row_number() OVER (PARTITION BY kind.code ORDER BY last.received_at DESC) > {MOST_HOSTS},
            last.received_at DESC
        LIMIT {MAX_GROUPS}
    )
    SELECT coalesce(nullif(code, ''), '{NONE}') AS error_code, coalesce(nullif(groups.host, ''), '{NONE}') AS host,
        counted.number AS count, counted.number = {GROUP_CAP} AS capped,
        first.received_at AS first_seen, groups.received_at AS last_seen, recent.last_day, recent.day_before,
        groups.id AS example_id, left(groups.processing_error, {BRIEF_TEXT}) AS example_error, groups.total,
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
    LEFT JOIN acknowledgements AS known ON known.at >= first.received_at
        AND known.error_code = coalesce(nullif(code, ''), '{NONE}') AND known.host = coalesce(nullif(groups.host, ''), '{NONE}')
    ORDER BY last_seen DESC
""")  # noqa: S608 numbers and words of ours


async def list_failures(engine: AsyncEngine) -> FailurePage:
    """Return the groups of failed e-mails."""
    async with connect(engine) as conn:
        rows = (await conn.execute(_GROUPS)).all()
    is_capped = bool(rows) and rows[0].total > MAX_GROUPS
    return FailurePage(failures=[FailureGroup.model_validate(row) for row in rows], capped=is_capped)
