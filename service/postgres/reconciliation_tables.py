"""The tables of reconciliations: one row for each run, and one for each finding."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres.email_tables import Base, one_of

RUN_KINDS = ("reconcile", "verify")
RUN_STATUSES = ("running", "done", "failed", "abandoned", "cancelled")
# Repairs of a run: none; the harmless ones of missing or different documents; or every repair there is.
FIXES = ("nothing", "syncs", "all")
IN_TARGET = ("missing", "different", "ahead", "extra", "not_sent")
IN_STORAGE = ("object_missing", "object_damaged", "object_unreadable")
DIFFERENCES = (*IN_TARGET, *IN_STORAGE)
# Findings that need no action: documents and objects of others, or objects that only use some space.
REMARKS = ("foreign", "unclaimed")
# Predicates of partial indexes.
RUNNING = "status = 'running'"
DONE = "status = 'done'"
OPEN_FINDING = "repair IS NULL AND closed_at IS NULL"
# An open finding needs attention until a person dismisses it. Later runs that find the same keep the dismissal.
DISMISSED_FINDING = f"{OPEN_FINDING} AND dismissed_at IS NOT NULL"


class Reconciliation(Base):
    """A reconciliation or a verification: its options, progress and counts."""

    __tablename__ = "reconciliations"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="running")
    actor: Mapped[str]
    fix: Mapped[str]
    since: Mapped[datetime | None]  # e-mails received before it were skipped
    part: Mapped[int | None] = mapped_column(
        Integer
    )  # the range of the storage; hourly runs take the ranges in turn
    targets: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    emails: Mapped[int] = mapped_column(BigInteger, server_default="0")
    documents: Mapped[int] = mapped_column(BigInteger, server_default="0")
    objects: Mapped[int] = mapped_column(BigInteger, server_default="0")
    bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    unfinished: Mapped[int] = mapped_column(BigInteger, server_default="0")  # syncs in progress
    overdue: Mapped[int] = mapped_column(BigInteger, server_default="0")  # syncs in progress for too long
    not_synced: Mapped[int] = mapped_column(BigInteger, server_default="0")  # failed syncs
    counts: Mapped[Any] = mapped_column(server_default="{}")  # findings by kind
    repaired: Mapped[Any] = mapped_column(server_default="{}")  # repairs by kind
    error_code: Mapped[str | None]
    error: Mapped[str | None]
    # Any worker continues a verification, step by step.
    megabytes_per_second: Mapped[int | None] = mapped_column(Integer)
    place: Mapped[str | None]  # its progress
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())  # the time of the next step

    __table_args__ = (
        one_of("kind", RUN_KINDS),
        one_of("status", RUN_STATUSES),
        one_of("fix", FIXES),
        # One running reconciliation of each kind.
        Index("uq_reconciliations_running", "kind", unique=True, postgresql_where=text(RUNNING)),
        Index("ix_reconciliations_done", "kind", "id", postgresql_where=text(DONE)),
    )


class ReconciliationFinding(Base):
    """A finding of a run and its repair; before a document is removed, `detail` holds all of it."""

    __tablename__ = "reconciliation_findings"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    reconciliation_id: Mapped[int] = mapped_column(ForeignKey("reconciliations.id", ondelete="CASCADE"))
    kind: Mapped[str]
    found_at: Mapped[datetime] = mapped_column(server_default=func.now())
    email_id: Mapped[int | None] = mapped_column(BigInteger)
    key: Mapped[str]  # the key of the document or object
    detail: Mapped[Any]
    repair: Mapped[str | None]
    repaired_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]  # the time when a later run had checked it again
    dismissed_at: Mapped[datetime | None]
    dismissed_by: Mapped[str | None]
    dismiss_reason: Mapped[str | None]

    __table_args__ = (
        one_of("kind", (*DIFFERENCES, *REMARKS)),
        Index("ix_reconciliation_findings_open", "key", postgresql_where=text(OPEN_FINDING)),
        Index("ix_reconciliation_findings_open_email", "email_id", postgresql_where=text(OPEN_FINDING)),
        Index("ix_reconciliation_findings_email", "email_id", postgresql_where=text("email_id IS NOT NULL")),
        Index("ix_reconciliation_findings_run", "reconciliation_id", "id"),
        Index("ix_reconciliation_findings_key", "key"),
        Index(
            "ix_reconciliation_findings_kept",
            text("(detail ->> 'kept_as')"),
            postgresql_where=text("kind = 'object_damaged'"),
        ),
    )
