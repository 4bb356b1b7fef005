"""Rows from before the log: they are recorded later, with that mark and the time, once for an installation.

The pass is repeated until one has begun an hour after the log: processes of the version before may run until then. A row
without an entry is a finding from then on, and only `holdfast evidence record`, an act of a person, records it.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import JSON, BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.engine import transaction
from service.postgres.evidence_log import ROWS, told
from service.resources import Resources

# Ids of e-mails, or of acts, that one step looks at.
STEP = 2_000
GRACE = timedelta(hours=1)

log = structlog.get_logger()


async def step(res: Resources) -> bool:
    """Record the next rows without an entry, if the log still does that; return whether more may follow."""
    return await res.run(_step)


async def record_all(res: Resources, actor: str) -> int:
    """Record every row without an entry, for a person who knows why some have none; return how many."""
    after, total = 0, 0
    last = await res.run(lambda conn: conn.scalar(_LAST))
    while after < (last or 0):
        given = {"after": after, "until": after + STEP}
        total += await res.run(lambda conn, given=given: _record(conn, given))  # type: ignore[misc]
        after += STEP
    log.info("evidence_recorded", actor=actor, entries=total)
    return total


async def _step(conn: AsyncConnection) -> bool:
    async with transaction(conn):
        state = (await conn.execute(_LOCK)).one_or_none()
        if state is None or state.later_done_at is not None:
            return False
        place = state.later_place or {"after": 0, "is_last": state.is_after_grace, "wait": False}
        if place["wait"] and not state.is_after_grace:
            return False
        if place["wait"]:
            place = {"after": 0, "is_last": True, "wait": False}
        given = {"after": place["after"], "until": place["after"] + STEP}
        await _record(conn, given)
        has_more = given["until"] < (await conn.scalar(_LAST) or 0)
        place = {**place, "after": given["until"], "wait": not has_more}
        is_done = not has_more and place["is_last"]
        await conn.execute(_MOVE, {"place": place, "is_done": is_done})
        return bool(has_more)


async def _record(conn: AsyncConnection, given: Mapping[str, int]) -> int:
    total = 0
    for statement in _MISSING:
        total += (await conn.execute(statement, given)).rowcount
    return total


_BOUNDS = tuple(bindparam(name, type_=BigInteger()) for name in ("after", "until"))
_LOCK = text("""
SELECT later_place, later_done_at, now() > began_at + :grace AS is_after_grace
FROM evidence_log WHERE id = 1 FOR UPDATE SKIP LOCKED
""").bindparams(grace=GRACE)
_LAST = text("""
SELECT greatest((SELECT max(id) FROM incoming_emails), (SELECT max(id) FROM operator_actions))
""")
_MOVE = text("""
UPDATE evidence_log SET later_place = :place, later_done_at = CASE WHEN :is_done THEN now() END WHERE id = 1
""").bindparams(bindparam("place", type_=JSON()))


def _missing(kind: str, rows: str, email_id: str, subject: str, facts: str) -> Any:  # noqa: ANN401 a statement
    """Build the statement that records rows of a kind; acts go by their own ids, all others by those of e-mails."""
    number = subject if kind == "act" else email_id
    # The number of an attempt may have grown since: an e-mail with any end is known.
    same = {"act": f"entry.subject = {subject}", "ended": f"entry.email_id = {email_id}"}.get(
        kind, f"entry.email_id = {email_id} AND entry.subject IS NOT DISTINCT FROM {subject}"
    )
    # A scalar subquery: for an EXISTS, Postgres may read all entries for each row, while their table has no statistics.
    return text(f"""
INSERT INTO evidence_entries (kind, email_id, subject, facts)
SELECT '{kind}', {email_id}, {subject}, {told(facts, later=True)} FROM {rows}
WHERE {number} > :after AND {number} <= :until
    AND (SELECT entry.id FROM evidence_entries AS entry WHERE entry.kind = '{kind}' AND {same} LIMIT 1) IS NULL
ORDER BY {number}
""").bindparams(*_BOUNDS)  # noqa: S608 constants of ours


_MISSING = [_missing(kind, *parts) for kind, parts in ROWS.items()]
