"""Tell the targets which e-mails were removed: a deletion is a state that is carried there until each target has it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import BigInteger, Boolean, Integer, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import HoldfastError, Transient
from service.outbound.backoff import backoff
from service.postgres.removal_tables import TARGET_DUE
from service.resources import Resources, repeat_steps
from service.targets.removed import RemovedDocument, make_deleted_document
from service.targets.target import write_to
from service.telemetry.metrics import DELETIONS_SENT

BATCH = 100
SOON_SECONDS, IDLE_SECONDS = 0.05, 5.0
# A document that a target refuses is tried again after this time: a deletion is never given up.
REFUSED = timedelta(days=1)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Claim:
    """A document that this process has claimed; `attempt` is the fencing token."""

    document: RemovedDocument
    attempt: int
    retries: int


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The end of an attempt; without an error, all targets have the document."""

    claim: _Claim
    error: HoldfastError | None = None
    again_in: timedelta = timedelta(0)


async def tell_for_ever(res: Resources) -> None:
    """Tell the targets of removed e-mails, until cancelled; any number of workers may do so at once."""
    await repeat_steps(lambda: step(res), soon=SOON_SECONDS, idle=IDLE_SECONDS, event="deletions_not_sent")


async def step(res: Resources) -> bool:
    """Send the documents that are due, as far as there are free slots; return whether there were any.

    Without a target nothing is sent, and the documents stay due: a target may only be switched off for a while.
    """
    room = min(res.circuit_breakers.free_slots, BATCH) if res.targets else 0
    claims = await res.run(lambda conn: _claim(conn, room, res.settings.sync_lease)) if room else []
    outcomes = await asyncio.gather(*(_send(res, claim) for claim in claims))
    if outcomes:
        await res.insist(lambda conn: _settle(conn, outcomes))
    return bool(outcomes)


async def _claim(conn: AsyncConnection, room: int, lease: timedelta) -> list[_Claim]:
    rows = await conn.execute(_CLAIM, {"room": room, "lease": lease})
    return [
        _Claim(
            RemovedDocument(row.document_key, row.email_id, row.version, row.removed_at),
            row.target_attempts,
            row.target_retries,
        )
        for row in rows
    ]


async def _send(res: Resources, claim: _Claim) -> _Outcome:
    with res.circuit_breakers.slot():
        documents = [make_deleted_document(claim.document)]
        found = await asyncio.gather(
            *(write_to(target, documents, res.circuit_breakers) for target in res.targets)
        )
    errors = [error for error in found if error]
    DELETIONS_SENT.labels("failed" if errors else "sent").inc()
    if not errors:
        return _Outcome(claim)
    log.warning("deletion_not_sent", email=claim.document.email_id, code=errors[0].code)
    transient = [error for error in errors if isinstance(error, Transient)]
    if not transient:
        return _Outcome(claim, errors[0], REFUSED)
    least, most = res.settings.sync_retry_min_seconds, res.settings.sync_retry_max_seconds
    return _Outcome(claim, transient[0], backoff(claim.retries, least, most, transient))


async def _settle(conn: AsyncConnection, outcomes: Sequence[_Outcome]) -> None:
    ordered = sorted(outcomes, key=lambda each: each.claim.document.email_id)
    given = {
        "email_ids": [each.claim.document.email_id for each in ordered],
        "attempts": [each.claim.attempt for each in ordered],
        "are_done": [each.error is None for each in ordered],
        "codes": [each.error and each.error.code for each in ordered],
        "errors": [each.error and each.error.message for each in ordered],
        "pauses": [each.again_in for each in ordered],
    }
    await conn.execute(_SETTLE, given)


_CLAIM = text(f"""
WITH due AS (
    SELECT email_id FROM removed_emails WHERE {TARGET_DUE} AND target_due_at <= now()
    ORDER BY target_due_at LIMIT :room FOR UPDATE SKIP LOCKED
)
UPDATE removed_emails AS removed SET target_due_at = now() + :lease, target_attempts = target_attempts + 1 FROM due
WHERE removed.email_id = due.email_id
RETURNING removed.email_id, document_key, version, removed_at, target_attempts, target_retries
""").bindparams(bindparam("lease", type_=Interval()), bindparam("room", type_=Integer()))  # noqa: S608 constants of ours
_SETTLE = text("""
UPDATE removed_emails AS removed SET
    target_done_at = CASE WHEN is_done THEN now() END,
    target_due_at = CASE WHEN is_done THEN target_due_at ELSE now() + pause END,
    target_retries = CASE WHEN is_done THEN 0 ELSE target_retries + 1 END,
    target_error_code = code, target_error = error
FROM unnest(:email_ids, :attempts, :are_done, :codes, :errors, :pauses)
    AS outcome (email_id, attempt, is_done, code, error, pause)
WHERE removed.email_id = outcome.email_id AND target_attempts = outcome.attempt AND target_done_at IS NULL
""").bindparams(
    bindparam("email_ids", type_=ARRAY(BigInteger)),
    bindparam("attempts", type_=ARRAY(Integer)),
    bindparam("are_done", type_=ARRAY(Boolean)),
    *(bindparam(name, type_=ARRAY(Text)) for name in ("codes", "errors")),
    bindparam("pauses", type_=ARRAY(Interval)),
)
