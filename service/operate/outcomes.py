"""Record the outcomes of the e-mails of bulk retries, in steps that any worker takes.

The first end of an e-mail after its retry counts; a later retry changes nothing there.
"""

from datetime import timedelta

import structlog
from sqlalchemy import BigInteger, DateTime, Interval, TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.operation_tables import NO_OUTCOME, UNSETTLED
from service.resources import Resources, repeat_steps

# E-mails of one step.
BATCH = 2_000
# After this time another worker may claim the same step.
STEP_LEASE = timedelta(seconds=30)
# The pause after a step without news, or after the last step of a round.
ROUND = timedelta(seconds=1)
IDLE_SECONDS = 1.0
SOON_SECONDS = 0.05

log = structlog.get_logger()


async def step(res: Resources) -> bool:
    """Examine some e-mails of a bulk retry that is due; return whether there was one."""
    return await res.run(_step)


async def step_for_ever(res: Resources) -> None:
    """Take due steps, until cancelled."""
    await repeat_steps(
        lambda: step(res), soon=SOON_SECONDS, idle=IDLE_SECONDS, event="bulk_retry_outcomes_failed"
    )


async def _step(conn: AsyncConnection) -> bool:
    claimed = (await conn.execute(_CLAIM, {"lease": STEP_LEASE})).one_or_none()
    if claimed is None:
        return False
    here = {"bulk": claimed.id, "place": claimed.look_place, "until": claimed.look_at, "round": ROUND}
    await conn.execute(_RECORD[claimed.what], here)
    return True


_CLAIM = text(f"""
UPDATE bulk_retries SET look_at = now() + :lease
WHERE id = (
    SELECT id FROM bulk_retries WHERE {UNSETTLED} AND look_at <= now()
    ORDER BY look_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, what, look_place, look_at
""").bindparams(bindparam("lease", type_=Interval()))  # noqa: S608 constants of ours

# The state of an e-mail gives the outcome of its newest retry. If a later one began, the outcome of this one is unknown.
_STATES = {
    "job": """CASE
        WHEN email.id IS NULL OR EXISTS (
            SELECT FROM operator_actions AS later
            WHERE later.email_id = open.email_id AND later.id > open.id
                AND later.action NOT IN ('sync', 'dismiss', 'undismiss')
        ) THEN 'superseded'
        WHEN email.processing_status = 'completed' THEN 'repaired'
        WHEN email.processing_status = 'failed' THEN 'failed_again'
    END""",
    # A sync whose target was removed is `not_applicable`: it was not synced.
    "sync": """CASE
        WHEN email.id IS NULL OR EXISTS (
            SELECT FROM operator_actions AS later WHERE later.email_id = open.email_id AND later.id > open.id
                AND later.action NOT IN ('dismiss', 'undismiss')
        ) THEN 'superseded'
        WHEN email.processing_status NOT IN ('completed', 'failed') THEN NULL
        WHEN email.sync_status = 'synced' THEN 'repaired'
        WHEN email.sync_status IN ('failed', 'not_applicable') THEN 'failed_again'
    END""",
}


def _record(state: str) -> TextClause:
    """Build the statement of a step: record and count the outcomes of the next e-mails.

    `look_at` is the fencing token: a worker that was too slow finds another time there. The statement reads the status of
    the bulk retry from its snapshot, and so it sees all e-mails that were queued before that status was set.
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
""").bindparams(  # noqa: S608 constants of ours
        bindparam("bulk", type_=BigInteger()),
        bindparam("place", type_=BigInteger()),
        bindparam("until", type_=DateTime(timezone=True)),
        bindparam("round", type_=Interval()),
    )


_RECORD = {what: _record(state) for what, state in _STATES.items()}
