"""Find e-mails whose bodies read differently now, and run those again: their next attempt reads them again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy import BigInteger, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.jobs import reparsing, retries
from service.jobs.attachments import FileRecord, files_of
from service.jobs.reparsing import StoredRequest
from service.jobs.retries import FINISHED_STATES
from service.postgres.email_tables import IncomingEmail
from service.postgres.engine import run
from service.postgres.search import Place, walk
from service.postgres.selection import Selection
from service.resources import Resources
from service.zendesk import reading
from service.zendesk.body import Unreadable
from service.zendesk.payloads import Ignored
from service.zendesk.reading import Changes

# Bodies of up to a megabyte are in memory together.
BODIES = 20
EXAMINED = 500  # rows of a step, of which only ids are kept
EXAMPLES = 10

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Difference:
    """An e-mail that reads differently now."""

    email_id: int
    fields: Sequence[str]
    added: int
    corrected: int


@dataclass
class ReparsePlan:
    """How many finished e-mails matched, and what reading their bodies again would change."""

    matching: int = 0
    differing: int = 0
    added: int = 0  # files
    corrected: int = 0  # files whose address was read wrongly
    unreadable: int = 0  # now, or kept by no version: they stay as they are
    fields: Counter[str] = field(default_factory=Counter)
    examples: list[Difference] = field(default_factory=list)

    def count(self, found: Difference) -> None:
        self.differing += 1
        self.added += found.added
        self.corrected += found.corrected
        self.fields.update(found.fields)
        if len(self.examples) < EXAMPLES:
            self.examples.append(found)


def matching(res: Resources, wanted: Selection) -> AsyncIterator[Sequence[int]]:
    """Give the ids of all finished e-mails that match, newest first, some at a time.

    Raises Rejected (422) for a filter that asks for what is not finished.
    """
    if wanted.status not in {None, *FINISHED_STATES}:
        raise Rejected(422, "not_finished", f"What is {wanted.status} will be worked on anyway.")
    return _walk(res, wanted)


async def given(res: Resources, email_ids: Sequence[int]) -> AsyncIterator[Sequence[int]]:
    """Give these ids; raises Rejected if there is no such e-mail (404), or its job is not finished (409)."""

    async def look(conn: AsyncConnection) -> dict[int, str]:
        theirs = IncomingEmail.id == func.any(literal(email_ids, ARRAY(BigInteger)))
        query = select(IncomingEmail.id, IncomingEmail.processing_status).where(theirs)
        return {row.id: row.processing_status for row in await conn.execute(query)}

    found = await run(res.engine, res.settings.database_seconds, look)
    for email_id in email_ids:
        if email_id not in found:
            raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
        if found[email_id] not in FINISHED_STATES:
            raise Rejected(
                409, "not_finished", f"E-mail {email_id} is {found[email_id]}: it will be worked on anyway."
            )
    for start in range(0, len(email_ids), BODIES):
        yield email_ids[start : start + BODIES]


async def differences(
    res: Resources, pages: AsyncIterator[Sequence[int]], plan: ReparsePlan
) -> AsyncIterator[Sequence[Difference]]:
    """Read bodies again, without writing anything; count in the plan what is given, for each page of ids."""
    async for email_ids in pages:
        found = await _differing(res, email_ids, plan)
        for each in found:
            plan.count(each)
        yield found


async def retry_differing(res: Resources, found: Sequence[Difference], actor: str, per_second: int) -> int:
    """Run these e-mails again, as by hand, and no more than so many in a second; return how many were finished."""
    if not found:
        return 0
    email_ids = [each.email_id for each in found]
    jobs = await run(
        res.engine, res.settings.database_seconds, lambda conn: retries.retry(conn, email_ids, actor)
    )
    for job in jobs:
        res.dispatcher.dispatch(job)
    log.info("emails_reparsed", emails=len(jobs))
    await asyncio.sleep(len(jobs) / per_second)
    return len(jobs)


async def _walk(res: Resources, wanted: Selection) -> AsyncIterator[Sequence[int]]:
    after: Place | None = None
    while True:
        look = partial(_next, wanted=wanted, after=after)
        email_ids, after = await run(res.engine, res.settings.database_seconds, look)
        for start in range(0, len(email_ids), BODIES):
            yield email_ids[start : start + BODIES]
        if after is None:
            return


async def _next(
    conn: AsyncConnection, wanted: Selection, after: Place | None
) -> tuple[list[int], Place | None]:
    """Find the next finished e-mails, and where to go on."""
    way = walk(wanted, after, EXAMINED)
    rows = (await conn.execute(way.found(EXAMINED))).all()
    end = (await conn.execute(way.end())).one_or_none()
    finished = [row.id for row in rows if row.processing_status in FINISHED_STATES]
    return finished, Place(*end) if end else None


async def _differing(res: Resources, email_ids: Sequence[int], plan: ReparsePlan) -> list[Difference]:
    async def look(conn: AsyncConnection) -> tuple[list[StoredRequest], list[list[FileRecord]]]:
        kept = await reparsing.load(conn, email_ids)
        return kept, await files_of(conn, [each.email_id for each in kept])

    kept, files = await run(res.engine, res.settings.database_seconds, look)
    plan.matching += len(email_ids)
    plan.unreadable += len(email_ids) - len(kept)
    found = []
    for one, its_files in zip(kept, files, strict=True):
        changes = _changes(one, its_files)
        if changes is None:
            plan.unreadable += 1
        elif changes:
            counts = len(changes.added), len(changes.corrected)
            found.append(Difference(one.email_id, sorted(changes.fields), *counts))
        await asyncio.sleep(0)  # a body may take a while, and others want their turn
    return found


def _changes(kept: StoredRequest, files: Sequence[reading.File]) -> Changes | None:
    try:
        email = reading.read(reading.headers_of(kept.headers), kept.body)
    except Unreadable:
        return None
    return None if isinstance(email, Ignored) else reading.compare(kept.columns, files, email)
