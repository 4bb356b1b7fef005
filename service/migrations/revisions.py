"""What the revision on record in a database means to this program, and how to run the migrations."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.operations import TABLES

SCRIPTS = Path(__file__).parent
# How every revision of Holdfast's begins: the minute in which it was written, so that they sort by age.
_OURS = re.compile(r"\d{8}_\d{4}")
_HAS_REVISIONS = text("SELECT to_regclass('alembic_version') IS NOT NULL")
_REVISIONS = text("SELECT version_num FROM alembic_version ORDER BY version_num")
_COLUMNS = text("""
    SELECT relname || '.' || attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE attrelid = ANY(SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) name)
    AND attnum > 0 AND NOT attisdropped
""")
NEWEST = "deploy the newest version of Holdfast again, or restore a backup that is as old as this version"
UNKNOWN = (
    "look at `holdfast takeover --plan` if another system made these tables;"
    " if a newer Holdfast did, deploy that version"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a database stands to this program; `found` and `advice` are for people.

    `newer`: a later version of Holdfast migrated it, and this one can work with it, as after a rollback.
    `too_new`: the same, but this version lacks something there. `unknown`: Holdfast has no such revision.
    """

    kind: Literal["current", "behind", "newer", "too_new", "unknown"]
    found: str
    advice: str = ""

    def __str__(self) -> str:
        """Say both in one line."""
        return f"{self.found[:1].upper()}{self.found[1:]}" + (f": {self.advice}" if self.advice else "")


def config() -> Config:
    """Make alembic's configuration from this package alone, for where there is no alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


async def look(connection: AsyncConnection) -> Standing:
    """Compare the database's revision with the migrations of this program; changes nothing."""
    revisions: Sequence[str] = ()
    if await connection.scalar(_HAS_REVISIONS):
        revisions = (await connection.scalars(_REVISIONS)).all()
    known = await asyncio.to_thread(_known)
    lacking: Sequence[str] = ()
    if not {*known}.issuperset(revisions):
        names = [*TABLES.tables]
        there = {*(await connection.scalars(_COLUMNS, {"tables": names}))}
        lacking = [
            str(column) for table in TABLES.tables.values() for column in table.c if str(column) not in there
        ]
    return judge(revisions, lacking, known)


def judge(revisions: Sequence[str], lacking: Sequence[str], known: Mapping[str, str]) -> Standing:
    """Say how a database of these revisions stands to a program that knows others by their names, the oldest first.

    `lacking` are the columns that the program needs and the database has not. Only a revision of Holdfast's own form
    that is later than all it knows is a newer one, and only where the tables are Holdfast's: another system's revision
    may begin with a date as well.
    """
    ours = [*known]
    foreign = [revision for revision in revisions if revision not in known]
    if not foreign:
        missing = ours[max((ours.index(revision) + 1 for revision in revisions), default=0) :]
        if not missing:
            return Standing("current", "all were run")
        found = f"{len(missing)} not run, the next is {known[missing[0]]}"
        return Standing("behind", found, "run `holdfast migrate`")
    name = ", ".join(foreign)[:100]
    is_ours = not any(column.startswith("attempts.") for column in lacking)
    if is_ours and all(_OURS.match(revision) and revision[:13] > ours[-1] for revision in foreign):
        found = f"the database is newer ({name}) than this program ({ours[-1]})"
        if lacking:
            return Standing("too_new", f"{found} and has no {lacking[0]}, which this needs", NEWEST)
        return Standing("newer", found, "nothing to migrate, and this version works with it")
    return Standing("unknown", f"the database's revision {name} is none of Holdfast's", UNKNOWN)


@lru_cache(maxsize=1)
def _known() -> Mapping[str, str]:
    """List this program's revisions and the names of their files, the oldest first; blocks."""
    scripts = [*ScriptDirectory(str(SCRIPTS)).walk_revisions()][::-1]
    return {script.revision: Path(script.path).stem for script in scripts}
