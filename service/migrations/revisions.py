"""The meaning of a database's Alembic revision to this program, and the list of its migrations."""

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

from service.postgres.columns import lacking_columns

SCRIPTS = Path(__file__).parent
# A revision of Holdfast begins with the minute of its creation, so that revisions sort by age.
_OURS = re.compile(r"\d{8}_\d{4}")
_HAS_REVISIONS = text("SELECT to_regclass('alembic_version') IS NOT NULL")
_REVISIONS = text("SELECT version_num FROM alembic_version ORDER BY version_num")
_NEWEST = "deploy the newest version of Holdfast again, or restore a backup that is as old as this version"
_TAKE_OVER = "`holdfast takeover --plan` lists the steps to take it over"
_OWN_DATABASE = "point DATABASE_URL to a database of Holdfast's own"


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """The state of a database for this program; `found` and `advice` are sentences for people.

    `newer`: a later version of Holdfast migrated it, and this version works with it, as after a rollback.
    `too_new`: a later version migrated it, and this version lacks a column. `other_system`: its table
    `incoming_emails` can be taken over. `other_program`: it has an unknown revision and no such table.
    `missing` names the migrations that have not run.
    """

    kind: Literal["empty", "behind", "current", "newer", "too_new", "other_system", "other_program"]
    found: str
    advice: str = ""
    revision: str | None = None
    missing: Sequence[str] = ()

    @property
    def is_ours(self) -> bool:
        """Say whether the tables are Holdfast's, and not from a later version."""
        return self.kind in {"behind", "current"}

    @property
    def is_blocked(self) -> bool:
        """Say whether migrations cannot run."""
        return not self.is_ours and self.kind != "empty"

    def __str__(self) -> str:
        """Return the finding and the advice as one line."""
        return f"{self.found[:1].upper()}{self.found[1:]}" + (f": {self.advice}" if self.advice else "")


def config() -> Config:
    """Create Alembic's configuration from this package, for installations without an alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


async def look(connection: AsyncConnection) -> DatabaseState:
    """Compare the database's revision and columns with this program's; changes nothing."""
    revisions: Sequence[str] = ()
    if await connection.scalar(_HAS_REVISIONS):
        revisions = (await connection.scalars(_REVISIONS)).all()
    known = await asyncio.to_thread(_known)
    return judge(revisions, await lacking_columns(connection), known)


def judge(revisions: Sequence[str], lacking: Sequence[str], known: Mapping[str, str]) -> DatabaseState:
    """Judge a database by its revisions and missing columns; `known` maps our revisions, oldest first, to names.

    `lacking` are columns that the program needs and the database lacks. A database is newer only if its
    revision has Holdfast's form, is later than all known ones, and its tables are Holdfast's: another
    system's revision may begin with a date as well. Without a revision, the columns decide.
    """
    ours = [*known]
    foreign = [revision for revision in revisions if revision not in known]
    has_emails = "incoming_emails.id" not in lacking
    has_attempts = not any(column.startswith("attempts.") for column in lacking)
    name = ", ".join(revisions)[:100] or None
    if not foreign and (revisions or has_attempts or not has_emails):
        missing = [known[each] for each in _after(max(revisions, key=ours.index, default=None), ours)]
        if not missing:
            return DatabaseState("current", "all were run", "", name)
        kind: Literal["empty", "behind"] = "behind" if has_emails else "empty"
        found = f"{len(missing)} not run, the next is {missing[0]}"
        return DatabaseState(kind, found, "run `holdfast migrate`", name, missing)
    if has_attempts and all(_OURS.match(each) and each[:13] > ours[-1] for each in foreign):
        found = f"the database is newer ({name}) than this program ({ours[-1]})"
        if lacking:
            return DatabaseState(
                "too_new", f"{found} and has no {lacking[0]}, which this program needs", _NEWEST, name
            )
        return DatabaseState("newer", found, "nothing to migrate, and this version works with it", name)
    named = f"Alembic revision {name}" if name else "no Alembic revision"
    if has_emails:
        found = f"the table incoming_emails is another system's ({named})"
        return DatabaseState("other_system", found, _TAKE_OVER, name)
    found = f"the database is another program's ({named}, and no table incoming_emails)"
    return DatabaseState("other_program", found, _OWN_DATABASE, name)


def migrations_after(revision: str) -> Sequence[str]:
    """Name the migrations after a revision of ours, oldest first; blocks."""
    known = _known()
    return [known[each] for each in _after(revision, [*known])]


def _after(revision: str | None, known: Sequence[str]) -> Sequence[str]:
    return known[known.index(revision) + 1 :] if revision else known


@lru_cache(maxsize=1)
def _known() -> Mapping[str, str]:
    """Map this program's revisions, oldest first, to the names of their files; blocks."""
    scripts = [*ScriptDirectory(str(SCRIPTS)).walk_revisions()][::-1]
    return {script.revision: Path(script.path).stem for script in scripts}
