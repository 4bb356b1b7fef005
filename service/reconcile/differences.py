"""What differs from what is on record: all that runs found, until it was put right, or a later one looked there again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, exists, func, literal, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import NEVER_SYNCED, IncomingEmail
from service.postgres.operation_tables import DIFFERENCES, IN_STORAGE, IN_TARGET, OPEN, ReconciliationFinding
from service.reconcile.finding import MAX_FINDINGS, Finding

# What people are told of each kind.
KIND_LABELS = {
    "missing": "missing in the target",
    "different": "different in the target",
    "ahead": "ahead of the record in the target",
    "extra": "in the target without an e-mail",
    "not_sent": "not sent to the webhook",
    "object_missing": "missing in the storage",
    "object_damaged": "damaged in the storage",
    "object_unreadable": "in the storage and cannot be read",
}

_finding = ReconciliationFinding.__table__.c
# Of objects, what a comparison sees, which reads none of them.
_BY_SIZE = or_(
    _finding.kind == "object_missing",
    and_(
        _finding.kind == "object_damaged",
        _finding.detail["size"].as_string() != _finding.detail["expected_size"].as_string(),
    ),
)


@dataclass(frozen=True, slots=True)
class Differences:
    """How many are open, by kind, also the kinds of which there are none; and when somebody compared.

    There may be more, if a run may have found more than it kept. A run under way compares too, once it has seen
    something and gets on.
    """

    by_kind: Mapping[str, int]
    compared_at: datetime | None

    @property
    def total(self) -> int:
        return sum(self.by_kind.values())

    @property
    def may_be_more(self) -> bool:
        return self.total >= MAX_FINDINGS


async def open_differences(conn: AsyncConnection) -> Differences:
    """Count what is open; what several runs found counts once."""
    counts = {kind: int(number) for kind, number in await conn.execute(_OPEN)}
    return Differences({kind: counts.get(kind, 0) for kind in DIFFERENCES}, await conn.scalar(_COMPARED_AT))


async def close(
    conn: AsyncConnection, run_id: int, looked: ColumnElement[bool], found: Sequence[Finding] = ()
) -> None:
    """Close what others found where a run has looked now, and what it found itself, which is on record by then."""
    again = [
        and_(_finding.kind.in_(kinds), _finding.key.in_(keys))
        for kinds in (IN_TARGET, IN_STORAGE)
        if (keys := [each.row_key for each in found if each.kind in kinds])
    ]
    closed = update(ReconciliationFinding).values(closed_at=func.now())
    await conn.execute(closed.where(text(OPEN), _finding.reconciliation_id != run_id, or_(looked, *again)))


def documents_of(first: int, end: int) -> ColumnElement[bool]:
    """Name the documents of the e-mails from one id to before another."""
    mine = _finding.kind.in_(("missing", "different", "ahead"))
    return and_(mine, _finding.email_id >= first, _finding.email_id < end)


def extra_documents() -> ColumnElement[bool]:
    """Name the documents that belong to no e-mail."""
    return _finding.kind == "extra"


def whole_target() -> ColumnElement[bool]:
    """Name all that is compared with documents."""
    return and_(_finding.kind.in_(IN_TARGET), _finding.kind != "not_sent")


def unsent_in_target() -> ColumnElement[bool]:
    """Name the e-mails that were not sent to a webhook."""
    return _finding.kind == "not_sent"


def sent_by_now() -> ColumnElement[bool]:
    """Name the e-mails that were not sent once and are by now, or are on their way."""
    unsent = exists(literal(1)).where(IncomingEmail.id == _finding.email_id, text(NEVER_SYNCED))
    return and_(unsent_in_target(), ~unsent)


def objects_under(prefix: str) -> ColumnElement[bool]:
    """Name the objects of a range, whose sizes were looked at."""
    return and_(_BY_SIZE, _finding.key.startswith(prefix, autoescape=True))


def objects_of(keys: Sequence[str], *, were_read: bool) -> ColumnElement[bool]:
    """Name objects by their keys; only who read them knows of wrong bytes."""
    return and_(_finding.kind.in_(IN_STORAGE) if were_read else _BY_SIZE, _finding.key.in_(keys))


_OPEN = (
    select(_finding.kind, func.count(_finding.key.distinct()))
    .where(text(OPEN), _finding.kind.in_(DIFFERENCES))
    .group_by(_finding.kind)
)
_COMPARED_AT = text("""
SELECT greatest(
    (
        SELECT finished_at FROM reconciliations WHERE kind = 'reconcile' AND status = 'done'
        ORDER BY id DESC LIMIT 1
    ),
    (
        SELECT seen_at FROM reconciliations
        WHERE kind = 'reconcile' AND status = 'running' AND emails + objects > 0
    )
)
""")
