"""Pages of lists: common parameters, and cursors to the next page."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import RowMapping

from service.errors import Rejected
from service.postgres.search import Cursor

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Microseconds since the epoch, to the year 5138, and an id; all values are valid in Postgres.
_CURSOR = re.compile("([0-9]{1,17})-([0-9]{1,18})")
# Stands for a missing time in rows of a previous system; these rows sort first.
_NO_TIME = 10**17 - 1


class PageFilter(BaseModel):
    """The parameters of every list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=200, description="Maximum number")
    cursor: str | None = Field(
        None,
        description="`next_cursor` of the previous page",
        json_schema_extra={"pattern": f"^{_CURSOR.pattern}$"},
    )

    def after(self) -> Cursor | None:
        """Return time and id of the last row of the previous page; raises Rejected (400)."""
        return _read_cursor(self.cursor) if self.cursor is not None else None


def cut(
    rows: Sequence[RowMapping], limit: int, time: str = "received_at"
) -> tuple[Sequence[RowMapping], str | None]:
    """Return the rows up to the limit, and a cursor if there are more; `time` is the column of the cursor."""
    shown = rows[:limit]
    return shown, cursor_at(Cursor(shown[-1][time], shown[-1]["id"])) if len(rows) > limit else None


def cursor_at(place: Cursor) -> str:
    """Return the cursor of a place."""
    if place.received_at is None:
        return f"{_NO_TIME}-{place.id}"
    return f"{(place.received_at - _EPOCH) // timedelta(microseconds=1)}-{place.id}"


def _read_cursor(cursor: str) -> Cursor:
    if not (match := _CURSOR.fullmatch(cursor)):
        raise Rejected(400, "bad_cursor", "The cursor is not from a page.")
    microseconds, number = map(int, match.groups())
    if microseconds == _NO_TIME:
        return Cursor(None, number)
    return Cursor(_EPOCH + timedelta(microseconds=microseconds), number)
