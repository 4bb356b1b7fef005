"""What the log looks like now: its size, its newest head and where that was put, and the last verification."""

from datetime import datetime
from typing import Any

from pydantic import Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.config.settings import Settings
from service.formatting import counted, duration
from service.postgres.engine import connect
from service.queries.views import View


class HeadView(View):
    """The newest signed head."""

    number: int = Field(description="its number, from 1")
    size: int = Field(description="leaves of the tree that it signs")
    root: str = Field(description="root of that tree, in hexadecimal digits")
    at: datetime
    public_key: str = Field(description="the key that verifies its signature, in hexadecimal digits")
    object_key: str | None = Field(description="where the storage has it")
    stored_at: datetime | None
    mailed_at: datetime | None
    stamped_at: datetime | None = Field(description="when a time stamp authority stamped it")
    stamp_error: str | None = Field(description="why it has no time stamp")


class VerificationView(View):
    """The last verification that has ended."""

    began_at: datetime
    ended_at: datetime
    with_objects: bool = Field(description="whether every object in storage was read")
    counts: dict[str, int]
    findings: list[dict[str, Any]] = Field(description="the first 1,000; `counts` has the number of all")


class EvidenceView(View):
    """The state of the evidence log."""

    log_id: str | None = Field(description="null before a worker has begun the log")
    began_at: datetime | None
    size: int = Field(description="facts that have a place in the tree")
    waiting: bool = Field(description="whether facts wait for their places")
    key: str = Field(
        description="where the signing key is: `setting`, or `postgres`, whose owner can sign then"
    )
    recorded_later_at: datetime | None = Field(description="when all rows from before the log were recorded")
    head: HeadView | None
    verification: VerificationView | None


async def get_evidence(engine: AsyncEngine, settings: Settings) -> EvidenceView:
    """Read the state of the log."""
    async with connect(engine) as conn:
        log = (await conn.execute(_LOG)).mappings().one_or_none()
        return EvidenceView(
            **(log or _NOTHING),
            key="setting" if settings.evidence_key else "postgres",
            head=await _head(conn),
            verification=await _verification(conn),
        )


async def evidence_sentence(conn: AsyncConnection, settings: Settings) -> str:
    """Say when what is on record was last compared with the log, and what that found."""
    last = (await conn.execute(_LAST)).one_or_none()
    if last is None:
        hours = settings.evidence_verify_hours
        when = f"a worker verifies every {duration(hours * 3600)}" if hours else "EVIDENCE_VERIFY_HOURS is 0"
        return f"Not verified yet: {when}."
    found = counted(last.findings, "finding") if last.findings else "nothing was changed"
    return f"Verified {duration(last.age)} ago: {found}."


async def _head(conn: AsyncConnection) -> HeadView | None:
    row = (await conn.execute(_HEAD)).mappings().one_or_none()
    return None if row is None else HeadView(**row)


async def _verification(conn: AsyncConnection) -> VerificationView | None:
    row = (await conn.execute(_VERIFICATION)).mappings().one_or_none()
    return None if row is None else VerificationView(**row)


_NOTHING = {"log_id": None, "began_at": None, "size": 0, "waiting": False, "recorded_later_at": None}
# A scalar subquery: for a NOT EXISTS, Postgres may read all leaves.
_LOG = text("""
SELECT log_id, began_at, size, later_done_at AS recorded_later_at, EXISTS (
    SELECT FROM evidence_entries AS entry WHERE entry.id > low
        AND (SELECT index FROM evidence_leaves WHERE entry_id = entry.id) IS NULL
) AS waiting
FROM evidence_log WHERE id = 1
""")
_HEAD = text("""
SELECT number, size, encode(root, 'hex') AS root, at, encode(public_key, 'hex') AS public_key, object_key, stored_at,
    mailed_at, stamped_at, stamp_error
FROM evidence_heads ORDER BY number DESC LIMIT 1
""")
_LAST = text("""
SELECT extract(epoch FROM now() - ended_at) AS age, coalesce(CAST(counts ->> 'findings' AS bigint), 0) AS findings
FROM evidence_verifications WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT 1
""")
_VERIFICATION = text("""
SELECT began_at, ended_at, with_objects, counts, findings FROM evidence_verifications
WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT 1
""")
