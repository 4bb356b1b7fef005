"""Pages of a list: what any list may be asked for, where a page ends, and the cursor that leads on."""

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import RowMapping

from service.errors import Rejected

# What Postgres can look for: all but NUL.
TEXT = r"^[^\x00]*$"


class PageFilter(BaseModel):
    """The parameters that every list has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=200, description="how many at most")
    cursor: str | None = Field(None, description="`next_cursor` of the page before")

    def after(self) -> tuple[datetime, int] | None:
        """Return the time and the id at which the page before ended; raises Rejected (400)."""
        return _read_cursor(self.cursor) if self.cursor else None


def cut(rows: Sequence[RowMapping], limit: int) -> tuple[Sequence[RowMapping], str | None]:
    """Drop what was fetched beyond the limit; if there was something, return the cursor to it as well."""
    shown = rows[:limit]
    return shown, _cursor(shown[-1]) if len(rows) > limit else None


def _cursor(row: RowMapping) -> str:
    return base64.urlsafe_b64encode(f"{row['received_at'].isoformat()} {row['id']}".encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, int]:
    try:
        time, _, digits = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        received_at, number = datetime.fromisoformat(time), int(digits)
        is_time = received_at.tzinfo is not None and received_at.astimezone(UTC)
    except (ValueError, OverflowError, binascii.Error):
        raise Rejected(400, "bad_cursor", "The cursor is not one that a page gave.") from None
    if not is_time or not 0 < number < 2**63:
        raise Rejected(400, "bad_cursor", "The cursor is not one that a page gave.")
    return received_at, number
