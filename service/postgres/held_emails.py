"""Which e-mails a hold in force covers: those that it lists, and all that match its filter.

Where a fact is unknown, or has two versions, any of them counts: a hold may cover too much, and never too little.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import structlog
from pydantic import ValidationError
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Row,
    Select,
    Subquery,
    TableValuedAlias,
    Text,
    and_,
    any_,
    column,
    func,
    literal,
    null,
    select,
    text,
    true,
    union,
)
from sqlalchemy.dialects.postgresql import ARRAY, array
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import FromClause

from service.postgres.email_tables import IncomingEmail
from service.postgres.engine import is_in_transaction
from service.postgres.hold_tables import HeldEmail, Hold
from service.postgres.message_tables import MergedEmail, Message
from service.postgres.search import matches
from service.postgres.selection import LastingFilter, StoredFilter, read_filter

# Any fixed number. Transactions that delete e-mails share this advisory lock. One that sets a hold or changes a retention
# rule has it alone.
CUSTODY_LOCK = 4_710_025
# The filters of one statement: a row of Postgres has at most 1,664 columns.
_FILTERS = 500
_ID = BigInteger()
_TIME = DateTime(timezone=True)
_IN_FORCE = select(Hold.id, Hold.name, Hold.filter).where(Hold.released_at.is_(None)).order_by(Hold.id)

log = structlog.get_logger()


class NamedFilter(NamedTuple):
    """The filter of a hold in force."""

    hold_id: int
    name: str
    wanted: StoredFilter


async def held_among(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, list[str]]:
    """Return the names of the holds in force on each of these e-mails that is held, oldest hold first.

    Call it in the transaction that deletes, before it locks a row. From then on no hold is set until that transaction ends.
    """
    if is_in_transaction(conn):
        await share_custody(conn)
    return await holds_on(conn, email_ids)


async def free_of_holds(conn: AsyncConnection, email_ids: Sequence[int]) -> list[int]:
    """Return those of these e-mails that no hold covers, in order. Call it as `held_among`."""
    return sorted({*email_ids} - (await held_among(conn, email_ids)).keys())


async def share_custody(conn: AsyncConnection) -> None:
    """Keep holds and retention rules as they are until the transaction ends; others may delete at the same time."""
    await conn.execute(text(f"SELECT pg_advisory_xact_lock_shared({CUSTODY_LOCK})"))


async def take_custody(conn: AsyncConnection) -> None:
    """Wait for all transactions that delete, and let none begin until this transaction ends."""
    await conn.execute(text(f"SELECT pg_advisory_xact_lock({CUSTODY_LOCK})"))


async def holds_on(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, list[str]]:
    """Return the same as `held_among` for a page or a plan: a hold may be set at the next moment."""
    holds = (await conn.execute(_IN_FORCE)).all()
    if not (holds and email_ids):
        return {}
    covered = {(row.email_id, row.hold_id) for row in await conn.execute(_listed(email_ids))}
    filters = _filters(holds)
    for first in range(0, len(filters), _FILTERS):
        covered.update(await _covered_by(conn, filters[first : first + _FILTERS], email_ids))
    names = {row.id: row.name for row in holds}
    found: dict[int, list[str]] = {}
    for email_id, hold_id in sorted(covered):
        found.setdefault(email_id, []).append(names[hold_id])
    return found


async def filters_in_force(conn: AsyncConnection) -> list[NamedFilter]:
    """Return the filters of all holds in force that have one, oldest hold first."""
    return _filters((await conn.execute(_IN_FORCE)).all())


def binding_filter(stored: object, name: str) -> StoredFilter:
    """Read what a hold in force covers.

    A filter that an earlier version accepted although it can match no e-mail, such as an empty ticket, covers everything:
    nobody can tell what it is to protect.
    """
    wanted = shown_filter(stored)
    if isinstance(wanted, LastingFilter):
        return wanted
    log.warning("hold_filter_unfit", hold=name)
    return LastingFilter()


def shown_filter(stored: object) -> StoredFilter:
    """Read the filter of a hold. One of a newer version covers everything: this version cannot tell which e-mails it leaves out."""
    try:
        return read_filter(stored)
    except ValidationError:
        log.warning("hold_filter_unknown")
        return LastingFilter()


def covers(wanted: StoredFilter, versions: Subquery) -> ColumnElement[bool]:
    """Match a version of an e-mail's facts; an unknown fact matches."""
    return func.coalesce(and_(true(), *matches(wanted.selection, versions)), true())


def versions_of(email_ids: Sequence[int], filters: Sequence[StoredFilter]) -> Subquery:
    """Select the e-mails, once for each combination of the senders and times that are known of it.

    The webhook and the message may name different senders. An e-mail that a back-fill found was received long after it
    was sent. What no filter asks for is left out.
    """
    email, message = IncomingEmail.__table__.c, Message.__table__.c
    columns: list[ColumnElement[Any]] = [email.id, email.zendesk_ticket_id]
    rows: FromClause = IncomingEmail.__table__.outerjoin(Message.__table__, message.email_id == email.id)
    if any(each.sender is not None for each in filters):
        senders = _known("sender", Text(), email.from_email, message.from_address)
        rows = rows.join(senders, true())
        columns.append(senders.c.value.label("from_email"))
    if any(each.received_after or each.received_before for each in filters):
        times = _known("time", _TIME, email.received_at, email.sent_at, message.sent_at, message.created_at)
        rows = rows.join(times, true())
        columns.append(times.c.value.label("received_at"))
    return (
        select(*columns)
        .select_from(rows)
        .where(email.id == any_(literal(email_ids, ARRAY(_ID))))
        .subquery("versions")
    )


def _filters(holds: Sequence[Row[Any]]) -> list[NamedFilter]:
    return [
        NamedFilter(row.id, row.name, binding_filter(row.filter, row.name))
        for row in holds
        if row.filter is not None
    ]


def _known(name: str, kind: Text | DateTime, *facts: ColumnElement[Any]) -> TableValuedAlias:
    """Make a row of each fact that is known, or one row without a value if none is."""
    first, *others = facts
    # Most facts are the same: a second one that is equal to the first makes no row.
    every: ColumnElement[Any] = array([first, *(func.nullif(each, first) for each in others)], type_=kind)
    known = func.array_remove(every, null(), type_=ARRAY(kind))
    nothing: ColumnElement[Any] = literal([], ARRAY(kind))
    some = func.coalesce(func.nullif(known, nothing), literal([None], ARRAY(kind)))
    return func.unnest(some).table_valued(column("value", kind), name=name).render_derived()


def _listed(email_ids: Sequence[int]) -> Select[tuple[int, int]]:
    """Select the e-mails that holds list, and those that a listed one was merged into."""
    ids = literal(email_ids, ARRAY(_ID))
    own = select(HeldEmail.email_id, HeldEmail.hold_id).where(HeldEmail.email_id == any_(ids))
    merged = select(MergedEmail.email_id, HeldEmail.hold_id).join(
        HeldEmail, HeldEmail.email_id == MergedEmail.id
    )
    every = union(own, merged.where(MergedEmail.email_id == any_(ids))).subquery()
    in_force = select(every.c.email_id, every.c.hold_id).join(Hold, Hold.id == every.c.hold_id)
    return in_force.where(Hold.released_at.is_(None))


async def _covered_by(
    conn: AsyncConnection, filters: Sequence[NamedFilter], email_ids: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Return the pairs of e-mail and hold whose filter covers it."""
    versions = versions_of(email_ids, [each.wanted for each in filters])
    columns = (func.bool_or(covers(each.wanted, versions)) for each in filters)
    rows = (await conn.execute(select(versions.c.id, *columns).group_by(versions.c.id))).all()
    return (
        (row[0], each.hold_id)
        for row in rows
        for each, is_covered in zip(filters, row[1:], strict=True)
        if is_covered
    )
