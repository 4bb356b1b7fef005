"""Note what became of the e-mails of bulk retries: some at a time, by any worker.

An e-mail counts as it was when it was first seen to have ended; a later retry of it changes nothing there.
"""

from datetime import timedelta

import structlog
from sqlalchemy import BigInteger, DateTime, Interval, TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.engine import run
from service.postgres.operation_tables import NO_OUTCOME, UNSETTLED
from service.resources import Resources, run_steps

# E-mails that one step looks at.
BATCH = 2_000
# A worker that took a step has so long for it; then another worker takes it.
STEP_LEASE = timedelta(seconds=30)
# The pause after a step that found nothing new, or that was the last of a round.
ROUND = timedelta(seconds=1)
LOOK_SECONDS = 1.0
SOON_SECONDS = 0.05

log = structlog.get_logger()


async def step(res: Resources) -> bool:
    """Look at some e-mails of the bulk retry that is due; False where none is."""
    return await run(res.engine, res.settings.database_seconds, _step)


async def step_for_ever(res: Resources) -> None:
    """Take steps as they fall due, until cancelled."""
    await run_steps(
        lambda: step(res),
        busy_seconds=SOON_SECONDS,
        idle_seconds=LOOK_SECONDS,
        failed_event="bulk_retry_not_looked_at",
    )


async def _step(conn: AsyncConnection) -> bool:
    taken = (await conn.execute(_TAKE, {"patience": STEP_LEASE})).one_or_none()
    if taken is None:
        return False
    here = {"bulk": taken.id, "place": taken.look_place, "until": taken.look_at, "round": ROUND}
    await conn.execute(_LOOK[taken.what], here)
    return True


_TAKE = text(f"""
UPDATE bulk_retries SET look_at = now() + :patience
WHERE id = (
    SELECT id FROM bulk_retries WHERE {UNSETTLED} AND look_at <= now()
    ORDER BY look_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, what, look_place, look_at
""").bindparams(bindparam("patience", type_=Interval()))  # noqa: S608 words of ours

# The state of an e-mail tells how its newest retry ended. Where another one began since, how this one ended is unknown.
_STATES = {
    "job": """CASE
        WHEN email.id IS NULL OR EXISTS (
            SELECT FROM operator_actions AS later
            WHERE later.email_id = open.email_id AND later.id > open.id AND later.action <> 'sync'
        ) THEN 'superseded'
        WHEN email.processing_status = 'completed' THEN 'repaired'
        WHEN email.processing_status = 'failed' THEN 'failed_again'
    END""",
    # What waited for a target that was taken away is `not_applicable`: it was not synced.
    "sync": """CASE
        WHEN email.id IS NULL OR EXISTS (
            SELECT FROM operator_actions AS later WHERE later.email_id = open.email_id AND later.id > open.id
        ) THEN 'superseded'
        WHEN email.processing_status NOT IN ('completed', 'failed') THEN NULL
        WHEN email.sync_status = 'synced' THEN 'repaired'
        WHEN email.sync_status IN ('failed', 'not_applicable') THEN 'failed_again'
    END""",
}


def _look(state: str) -> TextClause:
    """Make the statement of a step: look at the next e-mails, note their outcomes, count them.

    `look_at` is the fence: a worker that was too slow finds another time there. The status of the retry is that of the
    snapshot, which has all e-mails that were queued before it was set.
    """
    return text(f"""
WITH mine AS (
    SELECT id FROM bulk_retries WHERE id = :bulk AND look_at = :until FOR UPDATE
), open AS (
    SELECT id, email_id FROM operator_actions
    WHERE bulk_retry_id = (SELECT id FROM mine) AND id > :place AND {NO_OUTCOME}
    ORDER BY id LIMIT (SELECT {BATCH})
), seen AS (
    SELECT open.id, {state} AS outcome FROM open LEFT JOIN incoming_emails AS email ON email.id = open.email_id
), noted AS (
    UPDATE operator_actions AS action SET outcome = seen.outcome
    FROM seen WHERE action.id = seen.id AND seen.outcome IS NOT NULL
), counted AS (
    SELECT count(*) FILTER (WHERE outcome = 'repaired') AS repaired,
        count(*) FILTER (WHERE outcome = 'failed_again') AS failed_again,
        count(*) FILTER (WHERE outcome = 'superseded') AS superseded,
        count(outcome) AS noted, count(*) = {BATCH} AS is_full, max(id) AS place
    FROM seen
), over AS (
    SELECT status <> 'running' AND NOT EXISTS (
        SELECT FROM operator_actions WHERE bulk_retry_id = :bulk AND {NO_OUTCOME}
            AND id NOT IN (SELECT id FROM seen WHERE outcome IS NOT NULL)
    ) AS is_over
    FROM bulk_retries WHERE id = :bulk
)
UPDATE bulk_retries AS bulk SET repaired = bulk.repaired + counted.repaired,
    failed_again = bulk.failed_again + counted.failed_again,
    superseded = bulk.superseded + counted.superseded,
    look_place = CASE WHEN is_full THEN place ELSE 0 END,
    look_at = CASE WHEN is_full AND noted > 0 THEN now() ELSE now() + :round END,
    settled_at = CASE WHEN is_over THEN now() END
FROM mine, counted, over WHERE bulk.id = mine.id
""").bindparams(  # noqa: S608 words of ours
        bindparam("bulk", type_=BigInteger()),
        bindparam("place", type_=BigInteger()),
        bindparam("until", type_=DateTime(timezone=True)),
        bindparam("round", type_=Interval()),
    )


_LOOK = {what: _look(state) for what, state in _STATES.items()}
