"""Search the e-mails of a filter: newest first, along an index, in bounded steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Select,
    Subquery,
    TextClause,
    and_,
    any_,
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
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import (
    CHANGED_IN_ZENDESK,
    DISMISSED,
    FAILED,
    NOT_DISMISSED,
    NOT_SYNCED,
    OPEN_FAILED,
    STATUSES,
    UNANNOUNCED,
    UNSYNCED,
    IncomingEmail,
    in_status,
)
from service.postgres.rows import brief
from service.postgres.selection import MOST_SENDER, NONE, Selection
from service.postgres.word_search import Found, find, holds

# The rows of one step. An index leads to the rows; a step that reads so many and finds too few matches returns its
# cursor instead of reading millions.
EXAMINED = 5_000
# The rows of one step that only counts.
COUNTED = 10_000
# The e-mails of one step that have the words of a text.
FOUND = 1_000
# The rows of one step in which a text is checked, because too many e-mails have it.
CHECKED = 2_000
_UNSYNCED, _FINISHED = ("not_applicable", "failed"), ("completed", "failed")
_BY_TIME = {"status", "received_after", "received_before"}
_OF_GROUP = {"error_code", "host", "dismissed"}
# The order of the index of failures.
BY_ERROR = (text("coalesce(error_code, '')"), text("coalesce(error_host, '')"))

HEAVY = {"raw_body", "raw_headers", "signature_hash", "reading_hash"}
LIGHT = tuple(column for column in IncomingEmail.__table__.c if column.name not in HEAVY)


class Cursor(NamedTuple):
    """The position of a search: after the e-mail with this time and id; the time is None if the row has none."""

    received_at: datetime | None
    id: int


@dataclass(frozen=True, slots=True)
class SearchStep:
    """At most `examined` rows in order, and the condition for a match.

    `reached` is the cursor of a step that ended early for another reason than the number of rows.
    """

    rows: Subquery
    matches: ColumnElement[bool]
    order: tuple[ColumnElement[Any], ...]
    examined: int
    reached: Cursor | None = None

    def found(self, limit: int, *, is_brief: bool = False) -> Select[Any]:
        """Select the matches; `is_brief` cuts long texts for a list."""
        columns = brief(self.rows.c) if is_brief else self.rows.c
        return select(*columns).where(self.matches).order_by(*self.order).limit(limit)

    def end(self) -> Select[Any]:
        """Select the cursor of the end of the step; nothing if there are no more rows."""
        if self.reached:
            time, number = self.reached
            columns: tuple[ColumnElement[Any], ...] = (
                literal(time, IncomingEmail.received_at.type).label("received_at"),
                literal(number, BigInteger).label("id"),
            )
            return select(*columns)
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


async def search(
    conn: AsyncConnection,
    wanted: Selection,
    after: Cursor | None = None,
    examined: int = EXAMINED,
    finished_before: datetime | None = None,
) -> SearchStep:
    """Search along the index with the fewest rows; check the other conditions in each row.

    A text is looked up in the index of words. If more e-mails have it than a step examines, the index of another
    condition leads.
    """
    key, status = None if _is_group(wanted) else _key(wanted), _status(wanted)
    is_by_time = key is None and bool(status or wanted.received_after or wanted.received_before)
    found = None
    if wanted.q is not None:
        found = await find(
            conn, wanted.q, None if is_by_time or not after else after.id, min(examined, FOUND)
        )
        if found.reached is not None and (is_by_time or key is not None):
            found = None
            examined = min(examined, CHECKED)
    if found is not None:
        rows = _found(found, after, is_by_time=is_by_time)
    elif is_by_time and status:
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
    conditions = matches(wanted if found is None else wanted.model_copy(update={"q": None}), candidates)
    reached = await _cursor_at(conn, found.reached) if found and found.reached is not None else None
    return SearchStep(candidates, and_(in_time, *conditions), order, examined, reached)


async def count(
    conn: AsyncConnection,
    wanted: Selection,
    examined: int | None = None,
    *,
    finished: bool = False,
    step: SearchStep | None = None,
) -> Count:
    """Count the matches among the first rows of a search; `finished` counts only finished e-mails.

    If `step` is the first one of a search for a text, its rows are counted.
    """
    examined = examined or (COUNTED if wanted.q is None else EXAMINED)
    reached = None
    given = {name for name in Selection.model_fields if getattr(wanted, name) is not None}
    if (some := _indexed_rows(wanted, given, finished=finished)) is not None:
        some = some.limit(inline_number(examined))
        found = examined_rows = (
            await conn.execute(select(func.count()).select_from(some.subquery()))
        ).scalar_one()
    else:
        if step is None or wanted.q is None:
            step = await search(conn, wanted, examined=examined)
        reached, examined = step.reached, step.examined
        over = step.rows.c.processing_status.in_(_FINISHED) if finished else true()
        matching = func.count().filter(step.matches, over)
        found, examined_rows = (
            await conn.execute(select(matching, func.count()).select_from(step.rows))
        ).one()
    return Count(found, reached is not None or examined_rows == examined)


def _indexed_rows(wanted: Selection, given: set[str], *, finished: bool) -> Select[Any] | None:
    """Select all matches if Postgres finds and counts them in an index alone; else return None."""
    one, rows = select(literal(1)).select_from(IncomingEmail), None
    if wanted.status and given <= _BY_TIME:
        rows = _in_time(one.where(in_status(wanted.status)), wanted)
    elif given == {"status", "dismissed"} and wanted.status == "failed" and not wanted.dismissed:
        return one.where(text(OPEN_FAILED)).order_by(*BY_ERROR)
    elif _is_group(wanted) and given <= _BY_TIME | _OF_GROUP and not wanted.dismissed:
        rows = _in_time(one.where(*_in_group(wanted)), wanted)
    if rows is not None:
        return rows.order_by(IncomingEmail.received_at.desc())
    if finished or (condition := _indexed(wanted, given)) is None:
        return None
    return one.where(condition).order_by(IncomingEmail.id.desc())


def _indexed(wanted: Selection, given: set[str]) -> ColumnElement[bool] | TextClause | None:
    """Return the condition of a filter if an index in the order of ids has all that it needs."""
    if given == {"error_code"} and wanted.error_code != NONE:
        return IncomingEmail.error_code == wanted.error_code
    if given == {"zendesk_state"} and wanted.zendesk_state == "any":
        return text(CHANGED_IN_ZENDESK)
    if wanted.sync_status == "failed" and given - {"sync_error_code"} == {"sync_status"}:
        return _not_synced(wanted)
    return None


def matches(wanted: Selection, candidates: Subquery) -> list[ColumnElement[bool]]:
    """Return every condition; checking the indexed ones again is cheap."""
    row = candidates.c
    conditions: list[ColumnElement[bool]] = []
    equal: Sequence[tuple[str, str | bool | None]] = (
        ("processing_status", wanted.status),
        ("sync_status", wanted.sync_status),
        ("sync_error_code", wanted.sync_error_code),
        ("origin", wanted.origin),
        ("zendesk_state", wanted.zendesk_state),
        ("zendesk_ticket_id", wanted.ticket),
        ("dismissed", wanted.dismissed),
    )
    for column, value in equal:
        if value is not None:
            conditions.append(_is(candidates, column, value))
    if wanted.sender is not None:
        conditions.append(_sender(row.from_email) == _sender(wanted.sender))
    for column, value in (("error_code", wanted.error_code), ("error_host", wanted.host)):
        if value is not None:
            conditions.append(row[column].is_(None) if value == NONE else row[column] == value)
    if NONE in (wanted.error_code, wanted.host):
        conditions.append(row.processing_status == "failed")
    conditions.extend(_bounds(wanted, candidates))
    if wanted.q is not None:
        conditions.append(holds(wanted.q, candidates))
    return conditions


def _bounds(wanted: Selection, candidates: Subquery) -> Iterator[ColumnElement[bool]]:
    row = candidates.c
    if wanted.email_ids is not None:
        yield row.id == any_(literal(wanted.email_ids, ARRAY(BigInteger)))
    if wanted.received_after:
        yield row.received_at >= wanted.received_after
    if wanted.received_before:
        yield row.received_at < wanted.received_before


def _newest_first(rows: Subquery) -> tuple[ColumnElement[Any], ...]:
    return rows.c.received_at.desc(), rows.c.id.desc()


def _is(candidates: Subquery, column: str, value: str | bool) -> ColumnElement[bool]:  # noqa: FBT001 the value of a filter
    if column == "dismissed":
        return literal_column(f"({DISMISSED if value else NOT_DISMISSED})", Boolean)
    if (column, value) == ("sync_status", "unsynced"):
        return and_(candidates.c.sync_status.in_(_UNSYNCED), candidates.c.processing_status.in_(_FINISHED))
    if (column, value) == ("zendesk_state", "any"):
        return candidates.c.zendesk_state.is_not(None)
    return candidates.c[column] == value


def inline_number(number: int) -> ColumnElement[int]:
    """Write a number into the statement: with a parameter, a cached plan of Postgres guesses its value."""
    return literal_column(str(number))


def _key(wanted: Selection) -> ColumnElement[bool] | TextClause | None:
    if wanted.email_ids is not None:
        return IncomingEmail.id == any_(literal(wanted.email_ids, ARRAY(BigInteger)))
    if wanted.ticket is not None:
        return IncomingEmail.zendesk_ticket_id == wanted.ticket
    if wanted.sender is not None:
        return _sender(IncomingEmail.from_email) == _sender(wanted.sender)
    if wanted.sync_status == "failed":
        return _not_synced(wanted)
    if wanted.error_code not in (None, NONE):
        return IncomingEmail.error_code == wanted.error_code
    return _unusual(wanted)


def _not_synced(wanted: Selection) -> ColumnElement[bool]:
    """Match e-mails whose sync failed: with the error of the job, with that of the sync, or all."""
    is_failed = text(NOT_SYNCED)
    if wanted.error_code not in (None, NONE):
        return and_(is_failed, IncomingEmail.error_code == wanted.error_code)
    if wanted.sync_error_code is not None:
        return and_(is_failed, IncomingEmail.sync_error_code == wanted.sync_error_code)
    return and_(is_failed)


def _status(wanted: Selection) -> str | None:
    """Return the status of the jobs that a filter asks for; without a code or a host, that of failed ones."""
    return wanted.status or ("failed" if NONE in (wanted.error_code, wanted.host) else None)


def _is_group(wanted: Selection) -> bool:
    """Say whether a filter asks for failures with one code and one host: an index has them in the order of time."""
    is_of_few = any(value is not None for value in (wanted.email_ids, wanted.ticket, wanted.sender))
    return _status(wanted) == "failed" and None not in (wanted.error_code, wanted.host) and not is_of_few


def _in_group(wanted: Selection) -> list[ColumnElement[bool] | TextClause]:
    """Match the failures of a group in the form of their index."""
    pairs = ((IncomingEmail.error_code, wanted.error_code), (IncomingEmail.error_host, wanted.host))
    return [
        text(OPEN_FAILED if wanted.dismissed is False else FAILED),
        # A literal: with a parameter, a generic plan could not know that this is the expression of the index.
        *(
            func.coalesce(column, literal_column("''")) == ("" if value == NONE else value)
            for column, value in pairs
        ),
    ]


def _unusual(wanted: Selection) -> TextClause | None:
    """Return the predicate of the index of what few e-mails are, if the filter asks for such."""
    if wanted.sync_status == "unsynced":
        return text(UNSYNCED)
    if wanted.dismissed:
        return text(DISMISSED)
    if wanted.zendesk_state is not None:
        return text(CHANGED_IN_ZENDESK)
    if wanted.origin not in (None, "webhook"):
        return text(UNANNOUNCED)
    return None


def _sender(address: Any) -> ColumnElement[str]:  # noqa: ANN401 a column or a text
    """Return an address in the form of the index of senders."""
    return func.left(func.lower(address), inline_number(MOST_SENDER))


def _by_id(rows: Select[Any], after: Cursor | None, examined: int) -> Select[Any]:
    if after:
        rows = rows.where(IncomingEmail.id < after.id)
    # A limit that the planner does not know: for so many rows, it would read all and sort them.
    return rows.order_by(IncomingEmail.id.desc()).limit(select(inline_number(examined)).scalar_subquery())


def _by_time(wanted: Selection, status: str, after: Cursor | None, examined: int) -> Select[Any]:
    these = _in_group(wanted) if _is_group(wanted) else [in_status(status)]
    rows = _after_in_time(_in_time(select(*LIGHT).where(*these), wanted), after)
    return rows.order_by(IncomingEmail.received_at.desc(), IncomingEmail.id.desc()).limit(
        inline_number(examined)
    )


def _after_in_time(rows: Select[Any], after: Cursor | None) -> Select[Any]:
    if after is None:
        return rows
    if after.received_at is None:  # these rows come first
        return rows.where(or_(IncomingEmail.received_at.is_not(None), IncomingEmail.id < after.id))
    return rows.where(tuple_(IncomingEmail.received_at, IncomingEmail.id) < after)


def _found(found: Found, after: Cursor | None, *, is_by_time: bool) -> Select[Any]:
    """Select the rows of e-mails that have the words."""
    ids = literal(found.email_ids, ARRAY(BigInteger))
    rows = select(*LIGHT).where(IncomingEmail.id == any_(ids))
    return _after_in_time(rows, after) if is_by_time else rows


async def _cursor_at(conn: AsyncConnection, email_id: int) -> Cursor:
    """Return the cursor of the oldest e-mail with at least this id, or of a place before all e-mails."""
    nearest = select(IncomingEmail.received_at).where(IncomingEmail.id >= email_id).order_by(IncomingEmail.id)
    return Cursor((await conn.execute(nearest.limit(inline_number(1)))).scalar(), email_id)


def _in_time(rows: Select[Any], wanted: Selection) -> Select[Any]:
    if wanted.received_after:
        rows = rows.where(IncomingEmail.received_at >= wanted.received_after)
    if wanted.received_before:
        rows = rows.where(IncomingEmail.received_at < wanted.received_before)
    return rows
