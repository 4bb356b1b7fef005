"""The tables of reconciliations: one row for each run, and one for each finding."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres.email_tables import Base, one_of

RUN_KINDS = ("reconcile", "verify")
RUN_STATUSES = ("running", "done", "failed", "abandoned", "cancelled")
# Repairs of a run: none; missing or different documents, which is always harmless; or every repair there is.
FIXES = ("nothing", "syncs", "all")
IN_TARGET = ("missing", "different", "ahead", "extra", "not_sent")
IN_STORAGE = ("object_missing", "object_damaged", "object_unreadable")
DIFFERENCES = (*IN_TARGET, *IN_STORAGE)
# Findings that need no action: documents and objects of others, or objects that only take some room.
REMARKS = ("foreign", "unclaimed")
# Predicates of partial indexes.
RUNNING = "status = 'running'"
DONE = "status = 'done'"
OPEN_FINDING = "repair IS NULL AND closed_at IS NULL"


class Reconciliation(Base):
    """A comparison of Postgres with the target and the storage, or a verification of what is stored: what came of it."""

    __tablename__ = "reconciliations"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="running")
    actor: Mapped[str]
    fix: Mapped[str]
    since: Mapped[datetime | None]  # e-mails received before it were not looked at
    part: Mapped[int | None] = mapped_column(Integer)  # of the storage, which the hourly runs take in turn
    targets: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    emails: Mapped[int] = mapped_column(BigInteger, server_default="0")
    documents: Mapped[int] = mapped_column(BigInteger, server_default="0")
    objects: Mapped[int] = mapped_column(BigInteger, server_default="0")
    bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    unfinished: Mapped[int] = mapped_column(BigInteger, server_default="0")  # on their way to the target
    overdue: Mapped[int] = mapped_column(BigInteger, server_default="0")  # of those: for too long
    not_synced: Mapped[int] = mapped_column(
        BigInteger, server_default="0"
    )  # whose sync failed, which is known
    counts: Mapped[Any] = mapped_column(server_default="{}")  # of what was found, by its kind
    repaired: Mapped[Any] = mapped_column(server_default="{}")  # likewise
    error_code: Mapped[str | None]
    error: Mapped[str | None]
    # A verification is taken on in steps, by any worker.
    megabytes_per_second: Mapped[int | None] = mapped_column(Integer)
    place: Mapped[str | None]  # how far it has come
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when another step is due

    __table_args__ = (
        one_of("kind", RUN_KINDS),
        one_of("status", RUN_STATUSES),
        one_of("fix", FIXES),
        # One of a kind at a time.
        Index("uq_reconciliations_running", "kind", unique=True, postgresql_where=text(RUNNING)),
        Index("ix_reconciliations_done", "kind", "id", postgresql_where=text(DONE)),
    )


class ReconciliationFinding(Base):
    """Something that a run found, and what was done about it; before a document is removed, `detail` has all of it."""

    __tablename__ = "reconciliation_findings"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    reconciliation_id: Mapped[int] = mapped_column(ForeignKey("reconciliations.id", ondelete="CASCADE"))
    kind: Mapped[str]
    found_at: Mapped[datetime] = mapped_column(server_default=func.now())
    email_id: Mapped[int | None] = mapped_column(BigInteger)
    key: Mapped[str]  # of the document, or of the object
    detail: Mapped[Any]
    repair: Mapped[str | None]
    repaired_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]  # when a later run had looked there again

    __table_args__ = (
        one_of("kind", (*DIFFERENCES, *REMARKS)),
        Index("ix_reconciliation_findings_open", "key", postgresql_where=text(OPEN_FINDING)),
        Index("ix_reconciliation_findings_open_email", "email_id", postgresql_where=text(OPEN_FINDING)),
        Index("ix_reconciliation_findings_run", "reconciliation_id", "id"),
    )
