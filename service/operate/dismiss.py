"""Dismiss what nobody can repair, with a reason: an e-mail, a webhook in quarantine, a finding; and take that back."""

from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Text,
    func,
    literal,
    literal_column,
    null,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.jobs import dismissals
from service.jobs.retries import record_acts
from service.postgres.email_tables import DISMISSED_WEBHOOK, IN_QUARANTINE, QuarantinedWebhook
from service.postgres.engine import connect
from service.postgres.reconciliation_tables import (
    DIFFERENCES,
    DISMISSED_FINDING,
    OPEN_FINDING,
    ReconciliationFinding,
)
from service.postgres.selection import cleaned_reason
from service.resources import Resources

_EVENTS = {"dismiss": "dismissed", "undismiss": "undismissed"}

log = structlog.get_logger()


async def dismiss(res: Resources, email_id: int, actor: str, reason: str) -> None:
    """Dismiss a failed e-mail, or one whose sync failed; a later failure, or a retry, ends that.

    Raises Rejected if there is no such e-mail (404), if nothing of it failed, it is dismissed or the reason is empty
    (409), or if the reason is too long (422).
    """
    reason = cleaned_reason(reason)
    async with connect(res.engine) as conn:
        if not await dismissals.dismiss(conn, [email_id], actor, reason):
            await _refuse(conn, email_id, "already_dismissed", "is dismissed already")
    log.info("email_dismissed", email=email_id)


async def undismiss(res: Resources, email_id: int, actor: str) -> None:
    """End the dismissal of an e-mail; raises Rejected (404, or 409 if it is not dismissed)."""
    async with connect(res.engine) as conn:
        if not await dismissals.undismiss(conn, [email_id], actor):
            await _refuse(conn, email_id, "not_dismissed", "is not dismissed", is_wanted=False)
    log.info("email_undismissed", email=email_id)


async def dismiss_webhook(
    res: Resources, webhook_id: int, actor: str, reason: str, bulk_retry_id: int | None = None
) -> None:
    """Dismiss a webhook in quarantine; raises Rejected as `dismiss` does."""
    await _dismiss(res, _WEBHOOK, webhook_id, actor, cleaned_reason(reason), bulk_retry_id=bulk_retry_id)


async def undismiss_webhook(
    res: Resources, webhook_id: int, actor: str, bulk_retry_id: int | None = None
) -> None:
    """End the dismissal of a webhook; raises Rejected (404, or 409 if it is not dismissed)."""
    await _dismiss(res, _WEBHOOK, webhook_id, actor, None, bulk_retry_id=bulk_retry_id)


async def dismiss_finding(res: Resources, finding_id: int, actor: str, reason: str) -> None:
    """Dismiss an open difference, and what later runs find of it; raises Rejected as `dismiss` does."""
    await _dismiss(res, _FINDING, finding_id, actor, cleaned_reason(reason))


async def undismiss_finding(res: Resources, finding_id: int, actor: str) -> None:
    """End the dismissal of a difference; raises Rejected (404, or 409 if it is not dismissed)."""
    await _dismiss(res, _FINDING, finding_id, actor, None)


async def _refuse(
    conn: AsyncConnection, email_id: int, code: str, message: str, *, is_wanted: bool = True
) -> None:
    """Raise Rejected for the present state of an e-mail."""
    state = await dismissals.state_of(conn, email_id)
    if state is None:
        raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
    status, has_failed = state
    if is_wanted and not has_failed:
        what = f"E-mail {email_id} is {status}: only what failed can be dismissed."
        raise Rejected(409, "not_failed", what)
    raise Rejected(409, code, f"E-mail {email_id} {message}.")


@dataclass(frozen=True)
class _Subject:
    """What else can be dismissed: the states that this may leave, and the rows that are meant by an id."""

    name: str
    table: type[Any]
    open: str
    dismissed: str
    is_over: tuple[str, str]  # code and reason where it is neither open nor dismissed
    column: str  # of an action
    missing: str  # a code

    def same(self, number: int) -> ColumnElement[bool]:
        """Match the row, and for a finding, those of other runs about the same difference."""
        if self.table is not ReconciliationFinding:
            return self.table.id == number  # type: ignore[no-any-return] # a column of any table
        found = ReconciliationFinding.__table__.alias("found")
        key = select(found.c.kind, found.c.key).where(found.c.id == number)
        return tuple_(ReconciliationFinding.kind, ReconciliationFinding.key).in_(key)


_WEBHOOK = _Subject(
    name="webhook",
    table=QuarantinedWebhook,
    open=IN_QUARANTINE,
    dismissed=DISMISSED_WEBHOOK,
    is_over=("already_replayed", "was replayed"),
    column="quarantine_id",
    missing="webhook_not_found",
)
_FINDING = _Subject(
    name="finding",
    table=ReconciliationFinding,
    open=f"{OPEN_FINDING} AND dismissed_at IS NULL AND kind IN ({', '.join(map(repr, DIFFERENCES))})",
    dismissed=DISMISSED_FINDING,
    is_over=("not_open", "is no open difference"),
    column="finding_id",
    missing="finding_not_found",
)


async def _dismiss(  # noqa: PLR0913 the columns of the act
    res: Resources,
    subject: _Subject,
    number: int,
    actor: str,
    reason: str | None,
    *,
    bulk_retry_id: int | None = None,
) -> None:
    """Dismiss with a reason, or end a dismissal: one UPDATE that names the state it leaves, and its record."""
    action, leaves = ("undismiss", subject.dismissed) if reason is None else ("dismiss", subject.open)
    values = {
        "dismissed_at": null() if reason is None else func.now(),
        "dismissed_by": None if reason is None else actor,
        "dismiss_reason": reason,
    }
    table = subject.table
    changed = update(table).where(subject.same(number), text(leaves)).values(values)
    done = changed.returning(table.id).cte("done")
    about = (literal(actor), literal(action), literal(number), literal(bulk_retry_id, BigInteger))
    row = select(*about, literal(reason, Text)).where(select(done.c.id).exists())
    columns = ["actor", "action", subject.column, "bulk_retry_id", "reason"]
    recorded, entered = record_acts(columns, row)
    async with connect(res.engine) as conn:
        if await conn.scalar(select(recorded.c.id).add_cte(entered)) is None:
            await _refuse_other(conn, subject, number, is_undismissal=reason is None)
    log.info(_EVENTS[action], **{subject.name: number})


async def _refuse_other(
    conn: AsyncConnection, subject: _Subject, number: int, *, is_undismissal: bool
) -> None:
    """Raise Rejected for the present state of a webhook or a finding."""
    is_dismissed: ColumnElement[bool] = literal_column(f"({subject.dismissed}) IS TRUE", Boolean)
    found = (await conn.execute(select(is_dismissed).where(subject.table.id == number))).one_or_none()
    name = f"{subject.name.capitalize()} {number}"
    if found is None:
        raise Rejected(404, subject.missing, f"There is no {subject.name} {number}.")
    if is_undismissal:
        raise Rejected(409, "not_dismissed", f"{name} is not dismissed.")
    if found[0]:
        raise Rejected(409, "already_dismissed", f"{name} is dismissed already.")
    code, reason = subject.is_over
    raise Rejected(409, code, f"{name} {reason}.")
