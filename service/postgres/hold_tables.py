"""The tables of holds and of retention rules: what may not be deleted, and what is to be deleted when."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Identity, Integer, false, func
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres.email_tables import Base


class Hold(Base):
    """A named order that nothing it covers may be deleted. A released one stays on record, and keeps its name."""

    __tablename__ = "holds"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    reason: Mapped[str]
    # It covers what matches now and later; null: only listed e-mails; {}: everything.
    filter: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    set_at: Mapped[datetime] = mapped_column(server_default=func.now())
    set_by: Mapped[str]
    released_at: Mapped[datetime | None]
    released_by: Mapped[str | None]
    release_reason: Mapped[str | None]


class HeldEmail(Base):
    """An e-mail that a hold lists.

    It does not refer to the row of the e-mail: that may be merged into another one, or be deleted after the release.
    """

    __tablename__ = "held_emails"

    email_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hold_id: Mapped[int] = mapped_column(ForeignKey("holds.id"), primary_key=True)


class RetentionRule(Base):
    """How long finished e-mails of a filter are kept. The first rule that matches decides."""

    __tablename__ = "retention_rules"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    name: Mapped[str] = mapped_column(unique=True)
    filter: Mapped[Any] = mapped_column(JSON)
    keep_days: Mapped[int | None] = mapped_column(Integer)  # null: for ever
    # It also deletes e-mails that need attention, or that a person dismissed.
    includes_failed: Mapped[bool] = mapped_column(server_default=false())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[str]

    __table_args__ = (CheckConstraint("keep_days >= 0", name="keep_days"),)
