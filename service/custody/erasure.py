"""Erasure: deletion on demand of a person. Tombstones stay, so that nothing of it returns.

An erasure is a row with its progress. Each step is one transaction that any worker may take, and a killed process loses no
more than the step that it was in.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import BigInteger, Interval, Row, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody import erasure_steps, receipts
from service.custody.scopes import Scope, comments_of, emails_in, with_copies
from service.errors import Permanent, Rejected
from service.jobs.retries import record_act
from service.jobs.tombstones import bury_content, bury_ticket, make_salt
from service.postgres.engine import connect, transaction
from service.postgres.held_emails import held_among, holds_on
from service.postgres.selection import cleaned_reason
from service.resources import Resources, repeat_steps
from service.telemetry.metrics import EMAILS_REMOVED

SALT_BYTES = 32
MOST_REPORTED = 10  # e-mails of a plan that are named
IDLE_SECONDS, SOON_SECONDS = 5.0, 0.05
_PAGE = 500
_ALL = 2**62

log = structlog.get_logger()


@dataclass(slots=True)
class ErasurePlan:
    """What an erasure would delete; `held` counts its e-mails, webhooks and suspended e-mails by the hold that forbids it."""

    scope: Scope
    emails: int = 0
    unfinished: int = 0
    files: int = 0
    bytes: int = 0
    requests: int = 0
    documents: int = 0  # e-mails that targets have
    webhooks: int = 0  # in quarantine, or ignored, that mention it
    suspended: int = 0
    held: Counter[str] = field(default_factory=Counter)
    examples: list[int] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.emails or self.webhooks or self.suspended)


async def plan(res: Resources, scope: Scope) -> ErasurePlan:
    """Say what an erasure would delete now. Nothing changes."""
    made = ErasurePlan(scope)
    comments: list[str] = []
    async with connect(res.engine) as conn:
        after = 0
        while page := await emails_in(conn, scope, after, _ALL, _PAGE):
            after = page[-1]
            ids = page if scope.is_file else await with_copies(conn, page)
            await _add_page(conn, made, ids)
            if not scope.is_file:
                comments += await comments_of(conn, ids)
        made.webhooks, held_webhooks = await erasure_steps.count_webhooks(conn, scope, comments)
        made.suspended, held_suspended = await erasure_steps.count_suspended(conn, scope)
        made.held += held_webhooks + held_suspended
    return made


async def start(res: Resources, scope: Scope, reason: str, actor: str) -> int:
    """Begin an erasure; return its number. `run`, or any worker, takes its steps.

    Raises Rejected if there is nothing to erase (404), if a hold covers a part of it or the reason is empty (409).
    """
    reason = cleaned_reason(reason)
    planned = await plan(res, scope)
    if planned.is_empty:
        raise Rejected(404, "nothing_to_erase", "Nothing on record is in this scope.")
    # Held e-mails are left out of those that Zendesk deleted.
    if scope.kind != "zendesk":
        _check_held(planned.held)

    async def begin(conn: AsyncConnection) -> int:
        async with transaction(conn):
            # Takes the lock of holds: a hold that was set since the plan is seen, and none is set until the commit.
            held = await held_among(conn, planned.examples)
            if scope.kind != "zendesk":
                _check_held({name: 1 for names in held.values() for name in names})
            await make_salt(conn, secrets.token_bytes(SALT_BYTES))
            receipt_id = await receipts.begin(conn, "erasure", actor, reason)
            if scope.kind == "ticket":
                await bury_ticket(conn, scope.subject, receipt_id)
            if scope.is_file:
                await bury_content(conn, scope.subject, receipt_id)
            given = {"receipt": receipt_id, "actor": actor, "scope": scope.kind, "subject": scope.subject}
            erasure_id = int(await conn.scalar(_BEGIN, given) or 0)
            await record_act(conn, actor, "erase", subject=f"erasure {erasure_id}", reason=reason)
        return erasure_id

    erasure_id = await res.run(begin)
    log.info("erasure_begun", erasure=erasure_id, scope=scope.kind, emails=planned.emails)
    return erasure_id


async def step(res: Resources, only: int | None = None) -> bool:
    """Take one step of an erasure that is due, or of this one; return whether there was one.

    Raises Permanent where Postgres does not let a row go, because a table of another system refers to it. The erasure
    waits an hour then, its row says why, and others go on.
    """
    claimed: list[int] = []

    async def take(conn: AsyncConnection) -> int | None:
        async with transaction(conn):
            row = (await conn.execute(_CLAIM, {"only": only})).one_or_none()
            claimed.extend(() if row is None else (row.id,))
            return None if row is None else await erasure_steps.take(conn, row)

    try:
        emails = await res.run(take)
    except Permanent as exc:
        log.warning("erasure_refused", erasure=claimed[-1], code=exc.code)
        given = {"id": claimed[-1], "pause": erasure_steps.HELD_PAUSE, "code": exc.code, "error": exc.message}
        await res.run(lambda conn: conn.execute(_POSTPONE, given))
        raise
    if emails is None:
        return await _finish(res, only)
    if emails:
        EMAILS_REMOVED.labels("erasure").inc(emails)
    return True


async def run(res: Resources, erasure_id: int) -> Row[Any]:
    """Take the steps of an erasure until it is done, or a hold stops it; return its row."""
    while True:
        await step(res, erasure_id)
        row = await state_of(res, erasure_id)
        if row is None:
            raise Rejected(404, "erasure_not_found", f"There is no erasure {erasure_id}.")
        if row.status == "done" or row.is_stopped:
            return row
        if not row.is_due:  # it waits for older transactions, or another process takes a step
            await asyncio.sleep(SOON_SECONDS)


async def state_of(res: Resources, erasure_id: int) -> Row[Any] | None:
    """Return the state of an erasure; None if there is no such one."""
    async with connect(res.engine) as conn:
        return (await conn.execute(_STATE, {"id": erasure_id})).one_or_none()


async def erase_for_ever(res: Resources) -> None:
    """Take due steps, until cancelled."""
    await repeat_steps(lambda: step(res), soon=SOON_SECONDS, idle=IDLE_SECONDS, event="erasure_put_off")


async def _finish(res: Resources, only: int | None) -> bool:
    """End an erasure that has deleted all; it may be repeated."""
    async with connect(res.engine) as conn:
        row = (await conn.execute(_TO_FINISH, {"only": only})).one_or_none()
    if row is None:
        return False
    await receipts.finish(res, row.receipt_id)
    await res.run(lambda conn: conn.execute(_DONE, {"id": row.id}))
    log.info("erasure_done", erasure=row.id, receipt=row.receipt_id)
    return True


async def _add_page(conn: AsyncConnection, made: ErasurePlan, email_ids: list[int]) -> None:
    counts = (await conn.execute(*erasure_steps.counting(made.scope, email_ids))).one()
    made.emails += len(email_ids)
    for name, number in counts._mapping.items():  # noqa: SLF001 its public name
        setattr(made, name, getattr(made, name) + int(number))
    held = await holds_on(conn, email_ids)
    made.held += erasure_steps.by_hold(held)
    made.examples = [*made.examples, *held, *email_ids][:MOST_REPORTED]


def _check_held(held: Mapping[str, int]) -> None:
    if held:
        names = ", ".join(sorted(held))
        raise Rejected(409, "held", f"A hold forbids it: {names}. Release it first, or erase less.")


_BEGIN = text("""
INSERT INTO erasures (receipt_id, actor, scope, subject, last_email, last_quarantined, last_ignored)
SELECT :receipt, :actor, :scope, :subject,
    coalesce((SELECT max(id) FROM incoming_emails), 0),
    coalesce((SELECT max(id) FROM quarantined_webhooks), 0),
    coalesce((SELECT max(id) FROM ignored_webhooks), 0)
RETURNING id
""").bindparams(
    bindparam("receipt", type_=BigInteger()),
    *(bindparam(name, type_=Text()) for name in ("actor", "scope", "subject")),
)
_ONLY = bindparam("only", type_=BigInteger())
_IS_DUE = "status = 'running' AND next_at <= now() AND (:only IS NULL OR id = :only)"
_CLAIM = text(f"""
SELECT * FROM erasures WHERE phase <> 'receipt' AND {_IS_DUE} ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED
""").bindparams(_ONLY)  # noqa: S608 words of ours
_TO_FINISH = text(f"""
SELECT id, receipt_id FROM erasures WHERE phase = 'receipt' AND {_IS_DUE} ORDER BY id LIMIT 1
""").bindparams(_ONLY)  # noqa: S608 words of ours
_POSTPONE = text("""
UPDATE erasures SET next_at = now() + :pause, error_code = :code, error = :error WHERE id = :id AND status = 'running'
""").bindparams(
    bindparam("id", type_=BigInteger()),
    bindparam("pause", type_=Interval()),
    *(bindparam(name, type_=Text()) for name in ("code", "error")),
)
_DONE = text("""
UPDATE erasures SET status = 'done', ended_at = now() WHERE id = :id AND status = 'running'
""").bindparams(bindparam("id", type_=BigInteger()))
_STATE = text("""
SELECT id, receipt_id, status, phase, held_by, next_at <= now() AS is_due,
    phase IN ('emails', 'quarantined', 'ignored', 'traces') AND held_by <> '{}' AND next_at > now() AS is_stopped
FROM erasures WHERE id = :id
""").bindparams(bindparam("id", type_=BigInteger()))
