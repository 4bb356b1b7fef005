"""Pages of a list: what any list may be asked for, where a page ends, and the cursor that leads on."""

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import RowMapping

from service.errors import Rejected
from service.selection import Place


class PageFilter(BaseModel):
    """The parameters that every list has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = None

    def after(self) -> Place | None:
        """Return the time and the id at which the page before ended; raises Rejected (400)."""
        return _read_cursor(self.cursor) if self.cursor else None


def cut(rows: Sequence[RowMapping], limit: int) -> tuple[Sequence[RowMapping], str | None]:
    """Drop what was fetched beyond the limit; if there was something, return the cursor to it as well."""
    shown = rows[:limit]
    return shown, cursor_at(Place(shown[-1]["received_at"], shown[-1]["id"])) if len(rows) > limit else None


def cursor_at(place: Place) -> str:
    """Write a place as the cursor that leads on from there."""
    return base64.urlsafe_b64encode(f"{place.received_at.isoformat()} {place.id}".encode()).decode()


def _read_cursor(cursor: str) -> Place:
    try:
        time, _, digits = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        received_at, number = datetime.fromisoformat(time), int(digits)
        is_time = received_at.tzinfo is not None and received_at.astimezone(UTC)
    except (ValueError, OverflowError, binascii.Error):
        raise Rejected(400, "bad_cursor", "The cursor is not one that a page gave.") from None
    if not is_time or not 0 < number < 2**63:
        raise Rejected(400, "bad_cursor", "The cursor is not one that a page gave.")
    return Place(received_at, number)
