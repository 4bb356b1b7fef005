"""The time of which all e-mails of an account are known, and its growth by a finished search."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.backfill.legs import LISTED
from service.postgres.source_tables import searched_until


class Known(NamedTuple):
    """All e-mails between the first two are on record; None before the first search has ended.

    Zendesk listed nothing between `watermark` and `searched_until`.
    """

    complete_since: datetime | None = None
    watermark: datetime | None = None
    left_out: datetime | None = None
    searched_until: datetime | None = None


class Searched(NamedTuple):
    """The result of a finished search: all of its range, without the left-out times and those that its list had no longer.

    Without an end, it found all until now: `reached` is the time of the newest change.
    """

    begin: datetime
    reached: datetime
    is_endless: bool
    left_out: datetime | None = None
    listed_since: datetime | None = None  # the list of tickets had all from here on; None without a list

    @property
    def complete_since(self) -> datetime:
        return max(each for each in (self.begin, self.left_out, self.listed_since) if each)


def extended(known: Known, searched: Searched) -> Known:
    """Return the known time after a search: more where its range meets the known one, else the same.

    Where a search without an end passed over a hole that no earlier one searched, completeness begins behind the hole.
    """
    since, reached = searched.complete_since, searched.reached
    if reached < since and not searched.is_endless:
        return known
    if known.complete_since is not None and known.watermark is not None:
        until = known.searched_until or known.watermark
        if not _meets(known.complete_since, until, searched):
            return known
        if not _has_hole(known.watermark, until, searched):
            since = min(known.complete_since, since)
        elif not searched.is_endless:
            return known
    return Known(
        since,
        max(each for each in (known.watermark, reached, searched.complete_since) if each),
        max((each for each in (known.left_out, searched.left_out) if each), default=None),
        known.searched_until,
    )


async def read(conn: AsyncConnection, account: str, *, but: int) -> Known:
    """Return the time of an account that all runs but one know."""
    return Known(*(await conn.execute(_READ, {"account": account, "run": but})).one())


def first_listed(now: datetime, begin: datetime) -> datetime | None:
    """Return since when the list of tickets has all, if it does not from `begin` on."""
    return now - LISTED if begin < now - LISTED else None


def _meets(since: datetime, until: datetime, searched: Searched) -> bool:
    """Say whether the searched range meets the known one: without an end it does, also where nothing happened lately."""
    return searched.begin <= until and (searched.is_endless or searched.reached >= since)


def _has_hole(watermark: datetime, until: datetime, searched: Searched) -> bool:
    """Say whether there is a time behind the known range of which this search did not find all either.

    A second that was left out has events behind the watermark: no earlier search found them.
    """
    is_left_out = searched.left_out is not None and searched.left_out > watermark
    return is_left_out or (searched.listed_since is not None and searched.listed_since > until)


_READ = text(f"""
SELECT complete_since, watermark, left_out, {searched_until(":run")} FROM sources WHERE account = :account
""")  # noqa: S608 a parameter's name
