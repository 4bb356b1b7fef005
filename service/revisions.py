"""Tell whose tables a database has, by its Alembic revision and by the columns of `incoming_emails`."""

from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

VERSIONS = Path(__file__).parents[1] / "alembic" / "versions"
_LENGTH = len("20250901_0900")  # of a revision, with which the name of its file begins
# Columns that another system's table does not have together.
_OURS = {"attempt_number", "due_at", "invocation_id", "lease_until", "raw_headers"}
_COLUMNS = text("""
    SELECT attname FROM pg_attribute
    WHERE attrelid = to_regclass('incoming_emails') AND attnum > 0 AND NOT attisdropped
""")


class Owner(Enum):
    """Whose tables they are."""

    NOBODY = "nobody"
    THIS_VERSION = "this version"
    OLDER_VERSION = "an older version"
    NEWER_VERSION = "a newer version"
    OTHER_SYSTEM = "another system, from which they can be taken over"
    OTHER_PROGRAM = "another program"


@dataclass(frozen=True, slots=True)
class Schema:
    """Whose tables a database has, and its Alembic revision, or None where it has none."""

    owner: Owner
    revision: str | None

    @property
    def hindrance(self) -> str | None:
        """Say in a sentence why no migration can be run, and what to do; None where one can."""
        named = f"Alembic revision {self.revision}" if self.revision else "no Alembic revision"
        return {
            Owner.NEWER_VERSION: f"The database is newer than this program ({named}): run the newest version of Holdfast.",
            Owner.OTHER_SYSTEM: f"The table incoming_emails is another system's ({named}):"
            " `holdfast takeover --plan` says what it takes to take it over.",
            Owner.OTHER_PROGRAM: f"The database is another program's ({named}, and no table incoming_emails):"
            " let DATABASE_URL lead to a database of Holdfast's own.",
        }.get(self.owner)


async def recognise(conn: AsyncConnection) -> Schema:
    """Look whose tables the database has."""
    found: list[str] = []
    if await conn.scalar(select(func.to_regclass("alembic_version"))):
        found = [*await conn.scalars(text("SELECT version_num FROM alembic_version ORDER BY version_num"))]
    columns = {*await conn.scalars(_COLUMNS)}
    return Schema(_owner(found, columns), ", ".join(found) or None)


@cache
def known_revisions() -> dict[str, str]:
    """Give the revisions of this version and the names of their files, the oldest first; none without migrations."""
    return {name[:_LENGTH]: name for name in sorted(path.stem for path in VERSIONS.glob("2*_*.py"))}


def missing_revisions(revision: str | None) -> list[str]:
    """List the names of the migrations that were not run on a database of ours, the next one first."""
    known = known_revisions()
    return [name for each, name in known.items() if revision is None or each > revision]


def _owner(found: list[str], columns: set[str]) -> Owner:
    known = known_revisions()
    if found and set(found) <= set(known):
        return Owner.THIS_VERSION if found == [max(known)] else Owner.OLDER_VERSION
    if columns >= _OURS:
        return Owner.NEWER_VERSION if found and known else Owner.THIS_VERSION
    if columns:
        return Owner.OTHER_SYSTEM
    return Owner.OTHER_PROGRAM if found else Owner.NOBODY
