"""The record of what `holdfast connect` made at an account: the table `connections`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent
from service.postgres.source_tables import Connection
from service.resources import Resources
from service.zendesk.rate_limit import key_of
from service.zendesk.rules import CONDITIONS, Condition, Drift

# The pause between two checks for drift, over all workers; and after one that got no answer.
CHECK_EVERY = timedelta(hours=1)
RETRY_AFTER = timedelta(minutes=10)
# The event of our test: intake knows it as one of an unused type. Its request is kept among the ignored ones, and is no e-mail.
TEST_EVENT = "zen:event-type:holdfast.connect"


class Made(NamedTuple):
    """Our webhook and trigger, as they were made."""

    endpoint: str
    webhook_id: str
    trigger_id: str
    condition: Condition


@dataclass(frozen=True)
class RecordedConnection:
    """Our webhook and trigger at an account, and what became of them."""

    account: str
    endpoint: str
    webhook_id: str
    trigger_id: str
    condition: Condition
    connected_at: datetime
    checked_at: datetime | None
    drift: Sequence[Drift]
    drift_since: datetime | None
    error_code: str | None
    now: datetime  # by the database's clock


_COLUMNS = (*Connection.__table__.c, func.now().label("now"))


def account_of(res: Resources) -> str:
    """Return the key of our account in the tables; raises Permanent without one."""
    if res.account.url is None:
        raise Permanent(
            "credentials_missing", "There is no account: set ZENDESK_SUBDOMAIN and its credentials"
        )
    return key_of(res.account.url)


async def read(conn: AsyncConnection, account: str) -> RecordedConnection | None:
    """Return the connection of an account."""
    found = await conn.execute(select(*_COLUMNS).where(Connection.account == account))
    row = found.mappings().one_or_none()
    return None if row is None else _recorded(dict(row))


async def save(conn: AsyncConnection, account: str, made: Made) -> None:
    """Record a connection that was made or changed just now; it has no drift."""
    columns: dict[str, Any] = {
        **made._asdict(),
        "connected_at": func.now(),
        "checked_at": func.now(),
        "drift": [],
        "drift_since": None,
        "error_code": None,
    }
    new = insert(Connection).values(account=account, **columns)
    await conn.execute(new.on_conflict_do_update(index_elements=["account"], set_=columns))


async def take_turn(conn: AsyncConnection, account: str) -> RecordedConnection | None:
    """Begin the check that is due; None if it is not due, or another process has begun it."""
    is_due = or_(Connection.checked_at.is_(None), Connection.checked_at < func.now() - CHECK_EVERY)
    turn = update(Connection).where(Connection.account == account, is_due)
    taken = await conn.execute(turn.values(checked_at=func.now()).returning(*_COLUMNS))
    row = taken.mappings().one_or_none()
    return None if row is None else _recorded(dict(row))


async def save_check(conn: AsyncConnection, checked: RecordedConnection, drift: Sequence[Drift]) -> None:
    """Save the result of a check, unless the connection was changed meanwhile."""
    since = func.coalesce(Connection.drift_since, func.now()) if drift else None
    found = [{"code": each.code, "text": each.text} for each in drift]
    columns = {"checked_at": func.now(), "drift": found, "drift_since": since, "error_code": None}
    await conn.execute(_unchanged(checked).values(columns))


async def save_failure(
    conn: AsyncConnection, checked: RecordedConnection, code: str, *, may_pass: bool
) -> None:
    """Save that Zendesk did not answer a check; the known drift stays. With `may_pass`, it is repeated soon."""
    at = func.now() - CHECK_EVERY + RETRY_AFTER if may_pass else func.now()
    await conn.execute(_unchanged(checked).values(checked_at=at, error_code=code))


async def forget(conn: AsyncConnection, account: str) -> None:
    """Delete the record of an account."""
    await conn.execute(delete(Connection).where(Connection.account == account))


def _unchanged(checked: RecordedConnection) -> Any:  # noqa: ANN401 an UPDATE of SQLAlchemy
    return update(Connection).where(
        Connection.account == checked.account, Connection.connected_at == literal(checked.connected_at)
    )


def _recorded(row: dict[str, Any]) -> RecordedConnection:
    row["drift"] = [Drift(each["code"], each["text"]) for each in row["drift"]]
    row["condition"] = row["condition"] if row["condition"] in CONDITIONS else "mail"
    return RecordedConnection(**row)
