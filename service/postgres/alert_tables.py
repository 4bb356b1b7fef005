"""The tables of alerts: the alerts, their deliveries to channels, and the state that all watchers share."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres.email_tables import Base, one_of

CAUSES = (
    *("failures", "quarantine", "waiting", "silence", "signatures", "workers", "no_worker", "sync"),
    *("reconciliation", "credentials", "zendesk", "connections"),
    # What Zendesk has and did not tell; a search that fails; held e-mails; a webhook or trigger that was changed.
    *("lost", "backfill", "suspended", "drift", "evidence"),
)
CHANNELS = ("mail", "slack", "webhook")
NEWS = ("opened", "resolved")
DELIVERY_STATUSES = ("pending", "sent", "failed")
# Predicates of partial indexes.
OPEN_ALERT = "resolved_at IS NULL"
PENDING_DELIVERY = "status = 'pending'"


class Alert(Base):
    """An alert, from its first sight until it is resolved."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    cause: Mapped[str]
    key: Mapped[str]  # distinguishes the alerts of one cause: for failures their code and host, for others ""
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    resolved_at: Mapped[datetime | None]
    count: Mapped[int] = mapped_column(BigInteger)  # the maximum at one time
    summary: Mapped[str]
    detail: Mapped[str]
    email_id: Mapped[int | None] = mapped_column(BigInteger)  # an example

    __table_args__ = (
        one_of("cause", CAUSES),
        # Many watchers open only one alert for a cause and key.
        Index("uq_alerts_open", "cause", "key", unique=True, postgresql_where=text(OPEN_ALERT)),
        Index("ix_alerts_again", "cause", "key", "opened_at"),
    )


class AlertDelivery(Base):
    """A delivery to one channel, of an opened or resolved alert: pending, sent, or given up."""

    __tablename__ = "alert_deliveries"

    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id"), primary_key=True)
    news: Mapped[str] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    status: Mapped[str] = mapped_column(server_default="pending")
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")  # the fencing token
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())  # during a send: the end of its lease
    sent_at: Mapped[datetime | None]
    error: Mapped[str | None]

    __table_args__ = (
        one_of("news", NEWS),
        one_of("channel", CHANNELS),
        one_of("status", DELIVERY_STATUSES),
        Index("ix_alert_deliveries_due", "channel", "due_at", postgresql_where=text(PENDING_DELIVERY)),
    )


class AlertWatch(Base):
    """The single row that watchers share: the next pass, and facts that only web processes know."""

    __tablename__ = "alert_watch"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    pass_number: Mapped[int] = mapped_column(BigInteger, server_default="0")  # the fencing token
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())  # the time of the next pass
    newest_id: Mapped[int] = mapped_column(
        BigInteger, server_default="0"
    )  # the newest e-mail at the start of this pass
    known_id: Mapped[int] = mapped_column(
        BigInteger, server_default="0"
    )  # the newest e-mail at the start of the previous pass
    bad_signatures: Mapped[int] = mapped_column(Integer, server_default="0")  # in a row
    bad_signature_code: Mapped[str | None]
    bad_signature_at: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
