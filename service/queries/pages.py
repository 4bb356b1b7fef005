"""Pages of a list: what any list may be asked for, where a page ends, and the cursor that leads on."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import RowMapping

from service.errors import Rejected
from service.postgres.search import Cursor

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Microseconds since then, to the year 5138, and an id: all of them are places, and Postgres knows them.
_CURSOR = re.compile("([0-9]{1,17})-([0-9]{1,18})")
# Stands for no time at all, as a row of another system may have it; such rows come before all others.
_NO_TIME = 10**17 - 1


class PageFilter(BaseModel):
    """The parameters that every list has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=200, description="How many at most")
    cursor: str | None = Field(
        None,
        description="`next_cursor` of the page before",
        json_schema_extra={"pattern": f"^{_CURSOR.pattern}$"},
    )

    def after(self) -> Cursor | None:
        """Return the time and the id at which the page before ended; raises Rejected (400)."""
        return _read_cursor(self.cursor) if self.cursor is not None else None


def cut(rows: Sequence[RowMapping], limit: int) -> tuple[Sequence[RowMapping], str | None]:
    """Drop what was fetched beyond the limit; if there was something, return the cursor to it as well."""
    shown = rows[:limit]
    return shown, cursor_at(Cursor(shown[-1]["received_at"], shown[-1]["id"])) if len(rows) > limit else None


def cursor_at(place: Cursor) -> str:
    """Write a place as the cursor that leads on from there."""
    if place.received_at is None:
        return f"{_NO_TIME}-{place.id}"
    return f"{(place.received_at - _EPOCH) // timedelta(microseconds=1)}-{place.id}"


def _read_cursor(cursor: str) -> Cursor:
    if not (match := _CURSOR.fullmatch(cursor)):
        raise Rejected(400, "bad_cursor", "The cursor is not one that a page gave.")
    microseconds, number = map(int, match.groups())
    if microseconds == _NO_TIME:
        return Cursor(None, number)
    return Cursor(_EPOCH + timedelta(microseconds=microseconds), number)
