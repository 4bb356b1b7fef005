"""Make attachments of the lists of files that a previous system recorded, in batches of e-mails."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.errors import HoldfastError
from service.jobs.attachments import FileRecord, Listing, files_of, record_lists, unread_lists
from service.postgres.engine import run
from service.resources import Resources
from service.zendesk.body import Unreadable
from service.zendesk.parsing import read_list

BATCH = 200  # e-mails
MAX_FILES = 2_000  # per statement, unless a single e-mail has more
PAUSE_SECONDS = 30.0
_EMPTY = {"null", "[]", "{}", '""'}
# The pause between two batches; short batches leave Postgres to the jobs most of the time.
BATCH_PAUSE_SECONDS = 0.05

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of a batch: its last id, 0 at the end, and the numbers of new files and of files not captured."""

    after: int
    files: int = 0
    not_captured: int = 0


async def read_lists_for_ever(res: Resources) -> None:
    """Read new lists of a previous system until cancelled.

    Several workers may do this at once: each list is read by one of them.
    """
    done = BatchResult(0)
    while True:
        try:
            done = await read_next(res.engine, res.settings.database_seconds, done.after)
        except HoldfastError as exc:
            log.warning("lists_not_read", code=exc.code)
            done = BatchResult(0)
        if done.files:
            log.info("lists_read", files=done.files, not_captured=done.not_captured)
        pause = PAUSE_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 no secret
        await asyncio.sleep(BATCH_PAUSE_SECONDS if done.after else pause)


async def read_next(engine: AsyncEngine, seconds: float, after: int, most: int = BATCH) -> BatchResult:
    """Read the next lists after an id; `seconds` limits each statement. Raises Transient."""

    async def query(conn: AsyncConnection) -> tuple[list[tuple[int, str]], list[list[FileRecord]]]:
        lists = await unread_lists(conn, after, most)
        return lists, await files_of(conn, [email_id for email_id, _ in lists]) if lists else []

    lists, known = await run(engine, seconds, query)
    if not lists:
        return BatchResult(0)
    files = not_captured = 0
    for portion in _portions(await asyncio.to_thread(_read_all, lists, known)):
        new, lacking = await run(engine, seconds, partial(record_lists, listings=portion))
        files, not_captured = files + new, not_captured + lacking
    return BatchResult(lists[-1][0], files, not_captured)


def _portions(listings: Sequence[Listing]) -> Iterator[Sequence[Listing]]:
    """Split lists into portions of about MAX_FILES files."""
    portion: list[Listing] = []
    files = 0
    for each in listings:
        portion.append(each)
        files += len(each.missing)
        if files >= MAX_FILES:
            yield portion
            portion, files = [], 0
    if portion:
        yield portion


def _read_all(lists: Sequence[tuple[int, str]], known: Sequence[Sequence[FileRecord]]) -> list[Listing]:
    return [_read(*each, files) for each, files in zip(lists, known, strict=True)]


def _read(email_id: int, text: str, known: Sequence[FileRecord]) -> Listing:
    if text in _EMPTY:
        return Listing(email_id, b"empty", {})
    try:
        listed = read_list(text, known)
    except Unreadable as exc:
        return Listing(email_id, b"unreadable", {}, problem=exc.message)
    first = max((file.position for file in known), default=-1) + 1
    return Listing(email_id, listed.fingerprint, dict(enumerate(listed.missing, first)), listed.is_whole)
