"""Search the e-mails of a filter: newest first, along an index, in bounded steps."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    TextClause,
    and_,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import NOT_SYNCED, STATUSES, UNSYNCED, Attachment, IncomingEmail, in_status
from service.postgres.rows import brief
from service.postgres.selection import MOST_SENDER, NONE, Selection

# The rows of one step. An index leads to most filters' rows. A text has none: a step without a match returns
# its cursor instead of reading millions of rows.
EXAMINED = 5_000
# The rows of one step that only counts.
COUNTED = 10_000
_UNSYNCED, _FINISHED = ("not_applicable", "failed"), ("completed", "failed")
_BY_TIME = {"status", "received_after", "received_before"}

HEAVY = {"raw_body", "raw_headers", "signature_hash", "reading_hash"}
LIGHT = tuple(column for column in IncomingEmail.__table__.c if column.name not in HEAVY)


class Cursor(NamedTuple):
    """The position of a search: after the e-mail with this time and id; the time is None if the row has none."""

    received_at: datetime | None
    id: int


@dataclass(frozen=True, slots=True)
class SearchStep:
    """At most `examined` rows in order, and the condition for a match."""

    rows: Subquery
    matches: ColumnElement[bool]
    order: tuple[ColumnElement[Any], ...]
    examined: int

    def found(self, limit: int, *, is_brief: bool = False) -> Select[Any]:
        """Select the matches; `is_brief` cuts long texts for a list."""
        columns = brief(self.rows.c) if is_brief else self.rows.c
        return select(*columns).where(self.matches).order_by(*self.order).limit(limit)

    def end(self) -> Select[Any]:
        """Select the cursor of the last row; nothing if there were fewer than `examined`."""
        cursor = select(self.rows.c.received_at, self.rows.c.id).order_by(*self.order)
        return cursor.offset(self.examined - 1).limit(1)

    def stop(self, limit: int) -> Select[Any]:
        """Select the cursor of the last of `limit` matches, or else of the last row."""
        cursor = select(self.rows.c.received_at, self.rows.c.id).where(self.matches).order_by(*self.order)
        full, short = cursor.offset(limit - 1).limit(1).subquery(), self.end().subquery()
        branches = union_all(select(literal(1).label("branch"), full), select(literal(2), short)).subquery()
        return select(branches.c.received_at, branches.c.id).order_by(branches.c.branch).limit(1)


class Count(NamedTuple):
    """The number of matches; if it is capped, a lower bound."""

    number: int
    is_capped: bool


def search(
    wanted: Selection,
    after: Cursor | None = None,
    examined: int = EXAMINED,
    finished_before: datetime | None = None,
) -> SearchStep:
    """Search along the index with the fewest rows; check the other conditions in each row."""
    key = _key(wanted)
    status = wanted.status or ("failed" if NONE in (wanted.error_code, wanted.host) else None)
    is_by_time = key is None and bool(status or wanted.received_after or wanted.received_before)
    if is_by_time and status:
        rows = _by_time(wanted, status, after, examined)
    elif is_by_time:
        # All statuses, each along its part of the index, merged.
        branches = (select(_by_time(wanted, each, after, examined).subquery()) for each in STATUSES)
        every = union_all(*branches).subquery()
        rows = select(every).order_by(*_newest_first(every)).limit(inline_number(examined))
    else:
        rows = _by_id(select(*LIGHT).where(true() if key is None else key), after, examined)
    candidates = rows.subquery("candidates")
    order = _newest_first(candidates) if is_by_time else (candidates.c.id.desc(),)
    ended_at = candidates.c.completed_at  # null in rows of another system without such a column
    in_time = true() if finished_before is None else or_(ended_at.is_(None), ended_at < finished_before)
    return SearchStep(candidates, and_(in_time, *matches(wanted, candidates)), order, examined)


async def count(
    conn: AsyncConnection, wanted: Selection, examined: int | None = None, *, finished: bool = False
) -> Count:
    """Count the matches among the first rows of a search; `finished` counts only finished e-mails."""
    examined = examined or (COUNTED if wanted.q is None else EXAMINED)
    given = {name for name in Selection.model_fields if getattr(wanted, name) is not None}
    if wanted.status and given <= _BY_TIME:
        # The index alone suffices.
        rows = _in_time(select(literal(1)).where(in_status(wanted.status)), wanted)
        some = rows.order_by(IncomingEmail.received_at.desc()).limit(inline_number(examined)).subquery()
        found = examined_rows = (await conn.execute(select(func.count()).select_from(some))).scalar_one()
    else:
        step = search(wanted, examined=examined)
        over = step.rows.c.processing_status.in_(_FINISHED) if finished else true()
        matching = func.count().filter(step.matches, over)
        found, examined_rows = (
            await conn.execute(select(matching, func.count()).select_from(step.rows))
        ).one()
    return Count(found, examined_rows == examined)


def matches(wanted: Selection, candidates: Subquery) -> list[ColumnElement[bool]]:
    """Return every condition; checking the indexed ones again is cheap."""
    row = candidates.c
    conditions: list[ColumnElement[bool]] = []
    for column, value in (
        ("processing_status", wanted.status),
        ("sync_status", wanted.sync_status),
        ("sync_error_code", wanted.sync_error_code),
        ("zendesk_ticket_id", wanted.ticket),
    ):
        if value is not None:
            conditions.append(_is(candidates, column, value))
    if wanted.sender is not None:
        conditions.append(_sender(row.from_email) == _sender(wanted.sender))
    for column, value in (("error_code", wanted.error_code), ("error_host", wanted.host)):
        if value is not None:
            conditions.append(row[column].is_(None) if value == NONE else row[column] == value)
    if NONE in (wanted.error_code, wanted.host):
        conditions.append(row.processing_status == "failed")
    if wanted.received_after:
        conditions.append(row.received_at >= wanted.received_after)
    if wanted.received_before:
        conditions.append(row.received_at < wanted.received_before)
    if wanted.q is not None:
        conditions.append(_holds(candidates, wanted.q))
    return conditions


def _newest_first(rows: Subquery) -> tuple[ColumnElement[Any], ...]:
    return rows.c.received_at.desc(), rows.c.id.desc()


def _is(candidates: Subquery, column: str, value: str) -> ColumnElement[bool]:
    if (column, value) == ("sync_status", "unsynced"):
        return and_(candidates.c.sync_status.in_(_UNSYNCED), candidates.c.processing_status.in_(_FINISHED))
    return candidates.c[column] == value


def inline_number(number: int) -> ColumnElement[int]:
    """Write a number into the statement: with a parameter, a cached plan of Postgres guesses its value."""
    return literal_column(str(number))


def _key(wanted: Selection) -> ColumnElement[bool] | TextClause | None:
    if wanted.ticket is not None:
        return IncomingEmail.zendesk_ticket_id == wanted.ticket
    if wanted.sender is not None:
        return _sender(IncomingEmail.from_email) == _sender(wanted.sender)
    if wanted.error_code not in (None, NONE):
        return IncomingEmail.error_code == wanted.error_code
    if wanted.sync_status == "failed":
        return text(NOT_SYNCED)
    if wanted.sync_status == "unsynced":
        return text(UNSYNCED)
    return None


def _sender(address: Any) -> ColumnElement[str]:  # noqa: ANN401 a column or a text
    """Return an address in the form of the index of senders."""
    return func.left(func.lower(address), inline_number(MOST_SENDER))


def _by_id(rows: Select[Any], after: Cursor | None, examined: int) -> Select[Any]:
    if after:
        rows = rows.where(IncomingEmail.id < after.id)
    return rows.order_by(IncomingEmail.id.desc()).limit(inline_number(examined))


def _by_time(wanted: Selection, status: str, after: Cursor | None, examined: int) -> Select[Any]:
    rows = _in_time(select(*LIGHT).where(in_status(status)), wanted)
    if after and after.received_at is None:  # these rows come first
        rows = rows.where(or_(IncomingEmail.received_at.is_not(None), IncomingEmail.id < after.id))
    elif after:
        rows = rows.where(tuple_(IncomingEmail.received_at, IncomingEmail.id) < after)
    return rows.order_by(IncomingEmail.received_at.desc(), IncomingEmail.id.desc()).limit(
        inline_number(examined)
    )


def _in_time(rows: Select[Any], wanted: Selection) -> Select[Any]:
    if wanted.received_after:
        rows = rows.where(IncomingEmail.received_at >= wanted.received_after)
    if wanted.received_before:
        rows = rows.where(IncomingEmail.received_at < wanted.received_before)
    return rows


def _holds(candidates: Subquery, part: str) -> ColumnElement[bool]:
    # A scalar subquery: for an EXISTS, Postgres may choose to list all files of all e-mails.
    named = (
        select(func.bool_or(Attachment.file_name.icontains(part, autoescape=True)))
        .where(Attachment.email_id == candidates.c.id)
        .scalar_subquery()
    )
    columns = (candidates.c.subject, candidates.c.from_email, candidates.c.from_name)
    return or_(*(column.icontains(part, autoescape=True) for column in columns), named)
