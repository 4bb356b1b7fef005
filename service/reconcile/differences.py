"""Open differences: findings of all runs that no repair has fixed and no later run has checked again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, exists, func, literal, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import NEVER_SYNCED, IncomingEmail
from service.postgres.reconciliation_tables import (
    DIFFERENCES,
    IN_STORAGE,
    IN_TARGET,
    OPEN_FINDING,
    ReconciliationFinding,
)
from service.reconcile.finding import MAX_FINDINGS, Finding

# The label of each kind on pages and in commands.
KIND_LABELS = {
    "missing": "missing in the target",
    "different": "different in the target",
    "ahead": "newer in the target than in Holdfast",
    "extra": "in the target without an e-mail",
    "not_sent": "not sent to the webhook",
    "object_missing": "missing in the storage",
    "object_damaged": "damaged in the storage",
    "object_unreadable": "unreadable in the storage",
}

_finding = ReconciliationFinding.__table__.c
# Differences of objects that a comparison of sizes detects without reading any object.
_BY_SIZE = or_(
    _finding.kind == "object_missing",
    and_(
        _finding.kind == "object_damaged",
        _finding.detail["size"].as_string() != _finding.detail["expected_size"].as_string(),
    ),
)


@dataclass(frozen=True, slots=True)
class Differences:
    """The number of open differences by kind, zeros included, and the time of the latest comparison.

    A running reconciliation counts as a comparison as soon as it has compared something.
    """

    by_kind: Mapping[str, int]
    compared_at: datetime | None

    @property
    def total(self) -> int:
        return sum(self.by_kind.values())

    @property
    def may_be_more(self) -> bool:
        """Whether a run may have found more than it saved."""
        return self.total >= MAX_FINDINGS


async def open_differences(conn: AsyncConnection) -> Differences:
    """Count the open differences that nobody dismissed; a difference that several runs found counts once."""
    counts = {kind: int(number) for kind, number in await conn.execute(_OPEN)}
    return Differences({kind: counts.get(kind, 0) for kind in DIFFERENCES}, await conn.scalar(_COMPARED_AT))


async def close(
    conn: AsyncConnection, run_id: int, compared: ColumnElement[bool], found: Sequence[Finding] = ()
) -> None:
    """Close findings of other runs: those in the compared range, and those that this run has found and saved again."""
    again = [
        and_(_finding.kind.in_(kinds), _finding.key.in_(keys))
        for kinds in (IN_TARGET, IN_STORAGE)
        if (keys := [each.row_key for each in found if each.kind in kinds])
    ]
    closed = update(ReconciliationFinding).values(closed_at=func.now())
    await conn.execute(
        closed.where(text(OPEN_FINDING), _finding.reconciliation_id != run_id, or_(compared, *again))
    )


def documents_of(first: int, end: int) -> ColumnElement[bool]:
    """Select differences of documents whose e-mails have ids from `first` to below `end`."""
    mine = _finding.kind.in_(("missing", "different", "ahead"))
    return and_(mine, _finding.email_id >= first, _finding.email_id < end)


def extra_documents() -> ColumnElement[bool]:
    """Select documents without an e-mail."""
    return _finding.kind == "extra"


def whole_target() -> ColumnElement[bool]:
    """Select all differences of documents in a collection."""
    return and_(_finding.kind.in_(IN_TARGET), _finding.kind != "not_sent")


def unsent_in_target() -> ColumnElement[bool]:
    """Select e-mails that were not sent to a webhook."""
    return _finding.kind == "not_sent"


def sent_by_now() -> ColumnElement[bool]:
    """Select unsent e-mails that have been sent since, or whose sync is pending."""
    unsent = exists(literal(1)).where(IncomingEmail.id == _finding.email_id, text(NEVER_SYNCED))
    return and_(unsent_in_target(), ~unsent)


def objects_under(prefix: str) -> ColumnElement[bool]:
    """Select differences of objects under a prefix that a comparison of sizes detects."""
    return and_(_BY_SIZE, _finding.key.startswith(prefix, autoescape=True))


def objects_of(keys: Sequence[str], *, were_read: bool) -> ColumnElement[bool]:
    """Select differences of objects by key; wrong bytes only if the objects were read."""
    return and_(_finding.kind.in_(IN_STORAGE) if were_read else _BY_SIZE, _finding.key.in_(keys))


_OPEN = (
    select(_finding.kind, func.count(_finding.key.distinct()))
    .where(text(OPEN_FINDING), _finding.dismissed_at.is_(None), _finding.kind.in_(DIFFERENCES))
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
