"""Reconciliations and verifications, with their findings and repairs."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, computed_field
from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    RowMapping,
    Select,
    Text,
    case,
    column,
    exists,
    func,
    literal_column,
    select,
    text,
    true,
    values,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import Rejected
from service.postgres.engine import connect
from service.postgres.reconciliation_tables import (
    DIFFERENCES,
    OPEN_FINDING,
    REMARKS,
    Reconciliation,
    ReconciliationFinding,
)
from service.postgres.rows import BRIEF_TEXT, brief, is_short
from service.queries.comparison import scope_of
from service.queries.pages import PageFilter, cut
from service.queries.views import Dismissible, View
from service.reconcile.finding import MAX_FINDINGS

Kind = Literal[
    "missing",
    "different",
    "ahead",
    "extra",
    "not_sent",
    "object_missing",
    "object_damaged",
    "object_unreadable",
    "foreign",
    "unclaimed",
]


class ReconciliationView(View):
    """A comparison of target and storage with Postgres, or a verification of stored objects."""

    id: int
    kind: Literal["reconcile", "verify"]
    status: Literal["running", "done", "failed", "abandoned", "cancelled"]
    actor: str
    fix: Literal["nothing", "syncs", "all"] = Field(
        description="Repairs: nothing, only syncs of missing or different documents, or all possible"
    )
    since: datetime | None = Field(description="Only e-mails received since then were compared; null: all")
    part: int | None = Field(description="The compared part of the storage, of 24; null: all")
    targets: str | None
    started_at: datetime
    finished_at: datetime | None
    emails: int = Field(description="Compared e-mails")
    documents: int = Field(description="Compared documents in the target")
    objects: int
    bytes: int
    unfinished: int = Field(description="E-mails with a pending sync")
    overdue: int = Field(description="Of those: pending for more than an hour")
    not_synced: int = Field(description="E-mails whose sync failed earlier")
    counts: Mapping[Kind, int] = Field(description="Findings by kind")
    repaired: Mapping[Kind, int] = Field(description="Findings with a repair, by kind")
    error_code: str | None
    error: str | None
    megabytes_per_second: int | None
    place: str | None = Field(description="The progress of a verification")

    @computed_field(description="Its scope, in words")  # type: ignore[prop-decorator]
    @property
    def compared(self) -> Sequence[str]:
        return scope_of(self.model_dump(include={"kind", "since", "part", "targets", "started_at"}))

    @computed_field(  # type: ignore[prop-decorator]
        description="Finished e-mails that the webhook did not have at the end: not sent, failed or pending;"
        " null without a webhook"
    )
    @property
    def not_sent(self) -> int | None:
        if "webhook" not in (self.targets or ""):
            return None
        left = self.counts.get("not_sent", 0) - self.repaired.get("not_sent", 0)
        return left + self.not_synced + self.unfinished

    @computed_field(description="Whether all findings are saved, and not only counted")  # type: ignore[prop-decorator]
    @property
    def is_kept(self) -> bool:
        return sum(self.counts.values()) <= MAX_FINDINGS

    @computed_field(description="Differences without a repair")  # type: ignore[prop-decorator]
    @property
    def open(self) -> int:
        return sum(self.counts.get(kind, 0) - self.repaired.get(kind, 0) for kind in DIFFERENCES)  # type: ignore[call-overload]


class FindingView(Dismissible):
    """A difference from Postgres, or a remark."""

    id: int
    kind: Kind
    found_at: datetime
    email_id: int | None
    key: str = Field(description="The key of the document or the object")
    detail: Any = Field(
        description="Details; for a removed document, its copy. Beyond 10,000 characters it is "
        '`{"clipped": true}`, and `holdfast reconcile show --json` has all of it'
    )
    repair: str | None = Field(description="The repair that was begun")
    repaired_at: datetime | None
    closed_at: datetime | None = Field(description="When a later run had compared it again")

    @property
    def _is_dismissed(self) -> bool:
        return self.repair is None

    @property
    def is_open(self) -> bool:
        """Whether it is a difference without a repair, and no later run compared it again."""
        return self.kind in DIFFERENCES and self.repair is None and self.closed_at is None


class ReconciliationPage(View):
    reconciliations: Sequence[ReconciliationView]
    next_cursor: str | None


class ReconciliationDetail(ReconciliationView):
    """A run with a page of its findings; beyond 2,000, findings are only counted."""

    is_open: bool = Field(
        description="Whether a difference without a repair was neither dismissed nor compared again by a later run"
    )
    dismissed: int = Field(description="Differences without a repair that a person dismissed")
    repairing: int = Field(description="Repaired e-mails whose job or sync is still running")
    unrepaired: int = Field(description="Repaired e-mails that failed again")
    findings: Sequence[FindingView]
    next_cursor: str | None

    @property
    def undismissed(self) -> int:
        """The number of differences without a repair that nobody dismissed."""
        return self.open - self.dismissed


async def list_reconciliations(engine: AsyncEngine, wanted: PageFilter) -> ReconciliationPage:
    """Return a page, newest first."""
    query = select(*_columns()).order_by(Reconciliation.id.desc()).limit(wanted.limit + 1)
    if after := wanted.after():
        query = query.where(Reconciliation.id < after.id)
    async with connect(engine) as conn:
        rows, cursor = cut((await conn.execute(query)).mappings().all(), wanted.limit, "started_at")
    return ReconciliationPage(reconciliations=[ReconciliationView(**row) for row in rows], next_cursor=cursor)


async def get_reconciliation(
    engine: AsyncEngine, run_id: int, wanted: PageFilter | None = None, *, is_brief: bool = True
) -> ReconciliationDetail:
    """Return a run with a page of its findings, oldest first; raises Rejected (404)."""
    wanted = wanted or PageFilter()
    found = ReconciliationFinding
    columns = _brief_finding() if is_brief else found.__table__.c
    query = select(*columns).where(found.reconciliation_id == run_id)
    query = query.order_by(found.id).limit(wanted.limit + 1)
    if after := wanted.after():
        query = query.where(found.id > after.id)
    run, findings = await _read(engine, run_id, query)
    rows, cursor = cut(findings, wanted.limit, "found_at")
    return ReconciliationDetail(**run, findings=_views(rows), next_cursor=cursor)


async def get_with_examples(engine: AsyncEngine, run_id: int, most: int) -> ReconciliationDetail:
    """Return a run with the first findings of each kind, at most `most` each; raises Rejected (404)."""
    found = ReconciliationFinding
    kinds = values(column("kind", Text), name="every").data([(kind,) for kind in (*DIFFERENCES, *REMARKS)])
    first = select(*_brief_finding()).where(found.reconciliation_id == run_id, found.kind == kinds.c.kind)
    examples = first.order_by(found.id).limit(most).lateral("examples")
    run, findings = await _read(engine, run_id, select(*examples.c).join_from(kinds, examples, true()))
    return ReconciliationDetail(**run, findings=_views(findings), next_cursor=None)


async def _read(
    engine: AsyncEngine, run_id: int, query: Select[Any]
) -> tuple[RowMapping, Sequence[RowMapping]]:
    found = ReconciliationFinding
    theirs = (found.reconciliation_id == run_id, found.kind.in_(DIFFERENCES))
    left = exists().where(*theirs, text(OPEN_FINDING), found.dismissed_at.is_(None))
    dismissed = select(func.count()).where(*theirs, found.repair.is_(None), found.dismissed_at.is_not(None))
    repairs = (
        text(_REPAIRS).columns(repairing=BigInteger, unrepaired=BigInteger).bindparams(run=run_id).subquery()
    )
    more = (left.label("is_open"), dismissed.scalar_subquery().label("dismissed"), *repairs.c)
    wanted = select(*_columns(), *more).join_from(Reconciliation, repairs, true())
    one = wanted.where(Reconciliation.id == run_id)
    async with connect(engine) as conn:
        run = (await conn.execute(one)).mappings().one_or_none()
        if run is None:
            raise Rejected(404, "reconciliation_not_found", f"There is no reconciliation {run_id}.")
        return run, (await conn.execute(query)).mappings().all()


def _views(rows: Sequence[RowMapping]) -> Sequence[FindingView]:
    return [FindingView(**row) for row in rows]


def _brief_finding() -> Sequence[ColumnElement[Any]]:
    """Return the columns of a finding; a long detail is cut to its reason."""
    columns = ReconciliationFinding.__table__.c
    reason = func.left(columns.detail.op("->>")("reason"), literal_column(str(BRIEF_TEXT)))
    cut = func.json_build_object("clipped", true(), "reason", reason)
    detail = case((is_short(columns.detail), columns.detail), else_=cut).cast(JSON).label("detail")
    return [*brief(column for column in columns if column.name != "detail"), detail]


# Only e-mails of saved findings.
_REPAIRS = """
SELECT count(DISTINCT email.id) FILTER (
    WHERE email.processing_status NOT IN ('completed', 'failed') OR email.sync_status = 'pending'
) AS repairing, count(DISTINCT email.id) FILTER (
    WHERE finding.kind LIKE 'object%' AND email.processing_status = 'failed' OR email.sync_status = 'failed'
) AS unrepaired
FROM reconciliation_findings AS finding JOIN incoming_emails AS email ON email.id = finding.email_id
WHERE finding.reconciliation_id = :run AND finding.repair IS NOT NULL
"""


def _columns() -> Sequence[ColumnElement[Any]]:
    columns = Reconciliation.__table__.c
    return brief(columns[name] for name in ReconciliationView.model_fields)
