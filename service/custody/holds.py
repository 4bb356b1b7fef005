"""Holds: orders by name that nothing they cover may be deleted.

A hold covers the e-mails that it lists, and all that match its filter, now and later. Its filter has only facts that last:
an e-mail must not leave a hold because a retry succeeded. Where a fact is unknown, or has two versions, any of them counts:
a hold may cover too much, and never too little.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from pydantic import ValidationError
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Select,
    Subquery,
    TableValuedAlias,
    Text,
    and_,
    any_,
    column,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    text,
    true,
    union,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, array
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.expression import FromClause

from service.errors import Rejected
from service.formatting import one_line
from service.jobs.retries import record_acts
from service.postgres.email_tables import IncomingEmail
from service.postgres.engine import connect, is_in_transaction, transaction
from service.postgres.hold_tables import HeldEmail, Hold
from service.postgres.message_tables import MergedEmail, Message
from service.postgres.search import matches
from service.postgres.selection import LastingFilter, cleaned_reason
from service.resources import Resources

# Any fixed number. Transactions that delete e-mails share this advisory lock. One that sets a hold or changes a retention
# rule has it alone.
CUSTODY_LOCK = 4_710_025
NAME_RULE = "A name has 1 to 64 lower-case letters, digits, dots, hyphens and underscores, and begins with a letter or digit."
NAME = re.compile("[a-z0-9][a-z0-9._-]{0,63}")
MOST_LISTED = 1_000  # e-mails of one hold
# The filters of one statement: a row of Postgres has at most 1,664 columns.
_FILTERS = 500
_ID = BigInteger()
_TIME = DateTime(timezone=True)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HoldOrder:
    """A hold to be set. Without a filter it covers the listed e-mails only; an empty filter covers everything."""

    name: str
    reason: str
    filter: LastingFilter | None = None
    email_ids: Sequence[int] = ()


class _Filter(NamedTuple):
    """The filter of a hold in force."""

    hold_id: int
    wanted: LastingFilter


async def set_hold(res: Resources, wanted: HoldOrder, actor: str) -> int:
    """Set a hold; return its id. It waits for deletions that have begun.

    Raises Rejected for a name of wrong form (422), for an order that covers nothing, an empty reason, or a name that a hold
    has or had (409), and for a listed e-mail that does not exist (404).
    """
    if not NAME.fullmatch(wanted.name):
        raise Rejected(422, "hold_name", NAME_RULE)
    if wanted.filter is None and not wanted.email_ids:
        raise Rejected(409, "hold_empty", "Give a filter, or list e-mails: this hold would cover nothing.")
    reason = cleaned_reason(wanted.reason)
    async with connect(res.engine) as conn, transaction(conn):
        await take_custody(conn)
        email_ids = await _existing(conn, wanted.email_ids)
        hold_id = await conn.scalar(_insert(wanted, reason, actor))
        if hold_id is None:
            raise Rejected(409, "hold_exists", f"There is or was a hold {wanted.name}. Choose another name.")
        if email_ids:
            listed = [{"hold_id": hold_id, "email_id": email_id} for email_id in email_ids]
            await conn.execute(insert(HeldEmail), listed)
        await record_action(conn, actor, "set_hold", wanted.name, reason)
    log.info("hold_set", hold=hold_id, listed=len(email_ids), has_filter=wanted.filter is not None)
    return int(hold_id)


async def release_hold(res: Resources, name: str, actor: str, reason: str) -> None:
    """Release a hold: from now on it covers nothing.

    Raises Rejected if there is no such hold (404), if it is released, or if the reason is empty (409).
    """
    if not NAME.fullmatch(name):
        raise no_hold(name)
    reason = cleaned_reason(reason)
    values = {"released_at": func.now(), "released_by": actor, "release_reason": reason}
    released = update(Hold).where(Hold.name == name, Hold.released_at.is_(None)).values(values)
    async with connect(res.engine) as conn, transaction(conn):
        hold_id = await conn.scalar(released.returning(Hold.id))
        if hold_id is None:
            if await conn.scalar(select(Hold.id).where(Hold.name == name)) is None:
                raise no_hold(name)
            raise Rejected(409, "hold_released", f"Hold {name} is released already.")
        await record_action(conn, actor, "release_hold", name, reason)
    log.info("hold_released", hold=hold_id)


def no_hold(name: str) -> Rejected:
    return Rejected(404, "hold_not_found", f"There is no hold {one_line(name, 64)}.")


async def record_action(
    conn: AsyncConnection, actor: str, action: str, subject: str | None, reason: str | None
) -> None:
    """Record the action of a person on a hold, a retention rule or an erasure."""
    values = (literal(value, Text) for value in (actor, action, subject, reason))
    acts, entered = record_acts(["actor", "action", "subject", "reason"], select(*values))
    await conn.execute(select(acts.c.id).add_cte(entered))


async def held_among(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, list[str]]:
    """Return the names of the holds in force on each of these e-mails that is held, oldest hold first.

    Call it in the transaction that deletes, before it locks a row. From then on no hold is set until that transaction ends.
    """
    if is_in_transaction(conn):
        await share_custody(conn)
    return await holds_on(conn, email_ids)


async def share_custody(conn: AsyncConnection) -> None:
    """Keep holds and retention rules as they are until the transaction ends; others may delete at the same time."""
    await conn.execute(text(f"SELECT pg_advisory_xact_lock_shared({CUSTODY_LOCK})"))


async def take_custody(conn: AsyncConnection) -> None:
    """Wait for all transactions that delete, and let none begin until this transaction ends."""
    await conn.execute(text(f"SELECT pg_advisory_xact_lock({CUSTODY_LOCK})"))


async def holds_on(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, list[str]]:
    """Return the same as `held_among` for a page or a plan: a hold may be set at the next moment."""
    in_force = select(Hold.id, Hold.name, Hold.filter).where(Hold.released_at.is_(None)).order_by(Hold.id)
    holds = (await conn.execute(in_force)).all()
    if not (holds and email_ids):
        return {}
    covered = {(row.email_id, row.hold_id) for row in await conn.execute(_listed(email_ids))}
    filters = [_Filter(row.id, read_filter(row.filter)) for row in holds if row.filter is not None]
    for first in range(0, len(filters), _FILTERS):
        covered.update(await _covered_by(conn, filters[first : first + _FILTERS], email_ids))
    names = {row.id: row.name for row in holds}
    found: dict[int, list[str]] = {}
    for email_id, hold_id in sorted(covered):
        found.setdefault(email_id, []).append(names[hold_id])
    return found


def read_filter(stored: object) -> LastingFilter:
    """Read the filter of a hold. One of a newer version covers everything: this version cannot tell what it leaves out."""
    try:
        return LastingFilter.model_validate(stored)
    except ValidationError:
        log.warning("hold_filter_unknown")
        return LastingFilter()


def _insert(wanted: HoldOrder, reason: str, actor: str) -> ReturningInsert[int]:
    given = wanted.filter
    values = {
        "name": wanted.name,
        "reason": reason,
        "filter": None if given is None else given.model_dump(mode="json", exclude_none=True),
        "set_by": actor,
    }
    new = postgresql.insert(Hold).values(values).on_conflict_do_nothing(index_elements=["name"])
    return new.returning(Hold.id)


async def _existing(conn: AsyncConnection, email_ids: Sequence[int]) -> list[int]:
    """Return the ids once each; raises Rejected (404) for one that was never an e-mail, or was deleted."""
    given = (
        func.unnest(literal(sorted({*email_ids}), ARRAY(_ID)))
        .table_valued("id", name="given")
        .render_derived()
    )
    is_there = or_(
        exists().where(IncomingEmail.id == given.c.id), exists().where(MergedEmail.id == given.c.id)
    )
    missing = select(given.c.id).where(~is_there).order_by(given.c.id).limit(1)
    if (email_id := await conn.scalar(missing)) is not None:
        raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
    return sorted({*email_ids})


def covers(wanted: LastingFilter, versions: Subquery) -> ColumnElement[bool]:
    """Match a version of an e-mail's facts; an unknown fact matches."""
    return func.coalesce(and_(true(), *matches(wanted.selection, versions)), true())


def versions_of(email_ids: Sequence[int], filters: Sequence[LastingFilter]) -> Subquery:
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
    conn: AsyncConnection, filters: Sequence[_Filter], email_ids: Sequence[int]
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
