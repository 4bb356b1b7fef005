"""The two ways to find comments by e-mail: the export of events, and the list of changed tickets."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Protocol

import structlog

from service.errors import HoldfastError, Permanent, Transient
from service.postgres.source_tables import HIDDEN_SECONDS
from service.zendesk.client import ZendeskClient
from service.zendesk.exports import (
    Change,
    EventsPage,
    ListedComment,
    TicketsPage,
    read_changed_tickets,
    read_events,
)

# Each search begins this long before the end of the last one: Zendesk shows some changes late, and equal seconds twice.
OVERLAP = timedelta(seconds=120)
MOST_PER_PAGE, LEAST_PER_PAGE = 1_000, 25
LIST_PAGE = 100
# The list of tickets leaves out archived ones. Zendesk archives a ticket 120 days after it was closed, and a closed ticket
# gets no e-mail: all younger ones are met.
LISTED = timedelta(days=100)
# Zendesk's clock may be behind ours: a start that it refuses as too recent is moved back by this, once.
MOVED_BACK_SECONDS = 900
# After so many restarts, a list whose cursor dies is given up.
MOST_RESTARTS = 5

_EVENTS = "/api/v2/incremental/ticket_events.json"
_TICKETS = "/api/v2/tickets.json"
_CLOSED = {403, 404, 410}
_EPOCH = datetime.fromtimestamp(0, UTC)
_TOO_RECENT = 422
# A smaller page may not have these errors.
_TOO_MUCH = {"download_timeout", "download_stalled", "too_large"}

Position = Mapping[str, Any]

log = structlog.get_logger()


class LegLeft(HoldfastError):
    """This leg cannot go on: `of_account` says whether all runs leave it, or this one alone."""

    def __init__(self, code: str, message: str, *, of_account: bool) -> None:
        super().__init__(code, message)
        self.of_account = of_account


@dataclass(frozen=True, slots=True)
class Span:
    """The time to search, by when comments were made; `now` is the database's.

    All e-mails since `known_since` should be on record. Those of them that a page shows anyway are recorded again: a ticket may
    have been deleted when its e-mails were searched for, and restored since.
    """

    since: datetime
    until: datetime | None
    now: datetime
    known_since: datetime | None = None

    @property
    def begin(self) -> datetime:
        return self.since - OVERLAP

    def has(self, time: datetime) -> bool:
        """Say whether a comment is not younger than the range; an imported comment may be older."""
        return self.until is None or time <= self.until


@dataclass(frozen=True, slots=True)
class LegPage:
    """What one call found: comments surely by e-mail, and tickets of which the comments have to be read, since when.

    The search goes on at `position`. All before `reached` is found, once the tickets are read; None where that is not
    known before the end.
    """

    position: Position | None
    found: Sequence[ListedComment] = ()
    tickets: Mapping[str, datetime] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    account_id: str | None = None
    reached: datetime | None = None
    is_end: bool = False


class Leg(Protocol):
    """A way to find comments by e-mail."""

    @property
    def name(self) -> str: ...

    async def read(self, position: Position | None) -> LegPage:
        """Make one call; raises LegLeft, and as the client's `get` does."""
        ...


@dataclass(frozen=True, slots=True)
class EventsLeg:
    """The export of ticket events, with their comments: about six calls for a thousand e-mails."""

    zendesk: ZendeskClient
    span: Span
    reserve: float = 0.0

    @property
    def name(self) -> str:
        return "events"

    async def read(self, position: Position | None) -> LegPage:
        at = position or {"start": int(self.span.begin.timestamp()), "per_page": MOST_PER_PAGE}
        start, per_page = min(at["start"], self._youngest), at["per_page"]
        query = {"start_time": f"{max(0, start)}", "include": "comment_events", "per_page": f"{per_page}"}
        try:
            page = await self.zendesk.export(_EVENTS, query, reserve=self.reserve)
        except HoldfastError as exc:
            return LegPage(_after_error(at, start, exc))
        read = await asyncio.to_thread(read_events, page, per_page)
        return self._page(at, start, read)

    @property
    def _youngest(self) -> int:
        return int(self.span.now.timestamp()) - HIDDEN_SECONDS

    def _page(self, at: Position, start: int, read: EventsPage) -> LegPage:
        until = self.span.until
        end = read.end_time if read.count or not read.is_end else None
        is_over = end is not None and until is not None and end > until.timestamp()
        is_end = read.is_end or is_over or start >= self._youngest
        if not is_end and (end is None or end < start):
            raise Transient("bad_response", "The export of events does not say where it goes on.")
        following = {**_gap(at), "start": start if end is None else end, "per_page": at["per_page"]}
        if end == start and not is_end:
            following = _after_stuck_second(at, start, self.span.now)
        return LegPage(
            following,
            [each for each in read.found if self.span.has(each.created_at)],
            {ticket_id: self._since(time) for ticket_id, time in read.unsure.items()},
            read.changes,
            read.account_id,
            self._reached(start if end is None else end),
            is_end,
        )

    def _since(self, time: datetime | None) -> datetime:
        is_known = time is not None and _EPOCH < time <= self.span.now
        return time - timedelta(seconds=1) if time is not None and is_known else self.span.begin

    def _reached(self, end: int) -> datetime:
        """Bound the end of a page: a clock that is ahead of ours must not move the search into the future."""
        reached = min(datetime.fromtimestamp(end, UTC), self.span.now)
        return max(self.span.since, reached if self.span.until is None else min(reached, self.span.until))


@dataclass(frozen=True, slots=True)
class ListsLeg:
    """The list of tickets, those changed last first: it needs no export, and a call for each changed ticket."""

    zendesk: ZendeskClient
    span: Span
    reserve: float = 0.0

    @property
    def name(self) -> str:
        return "lists"

    async def read(self, position: Position | None) -> LegPage:
        at = position or {}
        query = {"sort": "-updated_at", "page[size]": f"{LIST_PAGE}"}
        if cursor := at.get("cursor"):
            query["page[after]"] = cursor
        try:
            page = await self.zendesk.get(_TICKETS, query, reserve=self.reserve)
        except Permanent as exc:
            if not cursor or exc.answered not in {400, 422}:
                raise
            return LegPage(_restarted(at, exc))
        read = read_changed_tickets(page)
        if cursor and cursor == read.cursor:
            raise Transient("bad_response", "The list of tickets does not go on.")
        return self._page(at, read)

    def _page(self, at: Position, read: TicketsPage) -> LegPage:
        floor = datetime.fromisoformat(at["floor"]) if "floor" in at else self.span.begin
        times = [time for _, time in read.tickets if time is not None]
        changed = [ticket_id for ticket_id, time in read.tickets if time is None or time >= floor]
        # A ticket from the future, as an import may make one, says nothing about the time that was read.
        known = datetime.fromisoformat(at["newest"]) if "newest" in at else self.span.since
        newest = max([known, *(time for time in times if time <= self.span.now)]).isoformat()
        is_last = read.cursor is None or has_passed(times, floor)
        # A ticket that changes while later pages are read moves to a page before them, and may never be met. So the
        # beginning of the list is read once more, until one page has all that changed, or nothing changed since. More
        # tickets than a page has may have changed in one second.
        is_end = is_last and ("cursor" not in at or newest == at.get("before"))
        following: Position = {**at, "cursor": read.cursor, "newest": newest}
        if is_last and not is_end:
            since = max(self.span.begin, datetime.fromisoformat(newest) - timedelta(seconds=1))
            following = {"floor": since.isoformat(), "before": newest}
        return LegPage(
            following,
            tickets=dict.fromkeys(changed, self.span.begin),
            reached=self._reached(datetime.fromisoformat(newest)) if is_end else None,
            is_end=is_end,
        )

    def _reached(self, newest: datetime) -> datetime:
        """Return the time of the newest change that the page had; the next run meets later changes."""
        reached = min(newest, self.span.now)
        return max(self.span.since, reached if self.span.until is None else min(reached, self.span.until))


def _after_error(at: Position, start: int, exc: HoldfastError) -> Position:
    """Return where to go on after an error: at the same place, with a smaller page; or raise."""
    if exc.answered == _TOO_RECENT and not at.get("moved"):
        return {**at, "start": start - MOVED_BACK_SECONDS, "moved": True}
    if exc.answered in {*_CLOSED, _TOO_RECENT}:
        closed = f"Zendesk closed the export of events for these credentials: {exc.message}"
        raise LegLeft("exports_closed", closed, of_account=True) from exc
    if (exc.answered == 504 or exc.code in _TOO_MUCH) and at["per_page"] > LEAST_PER_PAGE:
        per_page = max(LEAST_PER_PAGE, at["per_page"] // 2)
        log.info("backfill_page_halved", per_page=per_page, code=exc.code)
        return {**at, "start": start, "per_page": per_page}
    raise exc


def has_passed(times: Sequence[datetime], floor: datetime) -> bool:
    """Say whether a list that begins with the newest has passed a time; in another order, newer ones may follow."""
    return any(time < floor for time in times) and all(newer >= older for newer, older in pairwise(times))


def gap_end(position: Position | None) -> datetime | None:
    """Return the end of the latest second of which the export gave only a part; None if there was none."""
    gap = (position or {}).get("gap")
    return None if gap is None else datetime.fromtimestamp(gap, UTC)


def _gap(at: Position) -> dict[str, Any]:
    return {"gap": at["gap"]} if "gap" in at else {}


def _after_stuck_second(at: Position, start: int, now: datetime) -> dict[str, Any]:
    """Return the position for a second with more than a page: once a whole page, before the leg is left.

    Where the list of tickets does not reach so far back, the second is left out, and the run says so.
    """
    if at["per_page"] < MOST_PER_PAGE and not at.get("grown"):
        return {**_gap(at), "start": start, "per_page": MOST_PER_PAGE, "grown": True}
    if start < (now - LISTED).timestamp():
        log.warning("backfill_second_left_out", second=start)
        return {"start": start + 1, "per_page": MOST_PER_PAGE, "gap": start + 1}
    stuck = (
        f"More than a page of events share the second {datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M:%S}."
    )
    raise LegLeft("stuck_second", stuck, of_account=False)


def _restarted(at: Position, exc: Permanent) -> Position:
    """Return the position for a list whose cursor died: its beginning."""
    restarts = at.get("restarts", 0) + 1
    if restarts > MOST_RESTARTS:
        raise Permanent(
            "cursor_died", f"Zendesk ends the list of tickets again and again: {exc.message}"
        ) from exc
    log.info("backfill_list_restarted", restarts=restarts)
    return {"restarts": restarts} | ({"floor": at["floor"]} if "floor" in at else {})
