"""Reparse: find e-mails whose bodies today's parser reads differently, and retry those."""

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
from service.operate.retry import check_finished
from service.postgres.email_tables import IncomingEmail
from service.postgres.search import Cursor, search
from service.postgres.selection import Selection
from service.resources import Resources
from service.zendesk import parsing
from service.zendesk.body import Unreadable
from service.zendesk.parsing import Changes
from service.zendesk.payloads import Ignored

# Bodies in memory at once; each may have a megabyte.
BODIES = 20
EXAMINED = 500  # rows of one step; only their ids are kept
EXAMPLES = 10

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Difference:
    """An e-mail that the parser reads differently now."""

    email_id: int
    fields: Sequence[str]
    added: int
    corrected: int


@dataclass
class ReparsePlan:
    """The number of matching finished e-mails, and the changes that a reparse would make."""

    matching: int = 0
    differing: int = 0
    added: int = 0  # files
    corrected: int = 0  # files with a wrong address
    unreadable: int = 0  # e-mails without a readable body; they stay unchanged
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
    """Return the ids of all matching finished e-mails, newest first, page by page.

    Raises Rejected (422) for a filter by a status that is not finished.
    """
    check_finished(wanted.status)
    return _search(res, wanted)


async def given(res: Resources, email_ids: Sequence[int]) -> AsyncIterator[Sequence[int]]:
    """Yield these ids; raises Rejected if there is no such e-mail (404), or its job is not finished (409)."""

    async def load(conn: AsyncConnection) -> dict[int, str]:
        theirs = IncomingEmail.id == func.any(literal(email_ids, ARRAY(BigInteger)))
        query = select(IncomingEmail.id, IncomingEmail.processing_status).where(theirs)
        return {row.id: row.processing_status for row in await conn.execute(query)}

    found = await res.run(load)
    for email_id in email_ids:
        if email_id not in found:
            raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
        if found[email_id] not in FINISHED_STATES:
            still = f"E-mail {email_id} is {found[email_id]}: only finished e-mails can be retried."
            raise Rejected(409, "not_finished", still)
    for start in range(0, len(email_ids), BODIES):
        yield email_ids[start : start + BODIES]


async def differences(
    res: Resources, pages: AsyncIterator[Sequence[int]], plan: ReparsePlan
) -> AsyncIterator[Sequence[Difference]]:
    """Parse bodies without writing anything; yield the differences page by page, and count them in the plan."""
    async for email_ids in pages:
        found = await _differing(res, email_ids, plan)
        for each in found:
            plan.count(each)
        yield found


async def retry_differing(res: Resources, found: Sequence[Difference], actor: str, per_second: int) -> int:
    """Retry these e-mails, at most `per_second`; return how many were finished."""
    if not found:
        return 0
    email_ids = [each.email_id for each in found]
    jobs = await res.run(lambda conn: retries.retry(conn, email_ids, actor))
    for job in jobs:
        res.dispatcher.dispatch(job)
    log.info("emails_reparsed", emails=len(jobs))
    await asyncio.sleep(len(jobs) / per_second)
    return len(jobs)


async def _search(res: Resources, wanted: Selection) -> AsyncIterator[Sequence[int]]:
    after: Cursor | None = None
    while True:
        email_ids, after = await res.run(partial(_next, wanted=wanted, after=after))
        for start in range(0, len(email_ids), BODIES):
            yield email_ids[start : start + BODIES]
        if after is None:
            return


async def _next(
    conn: AsyncConnection, wanted: Selection, after: Cursor | None
) -> tuple[list[int], Cursor | None]:
    """Find the next finished e-mails, and the place after them."""
    found = await search(conn, wanted, after, EXAMINED)
    rows = (await conn.execute(found.found(EXAMINED))).all()
    end = (await conn.execute(found.end())).one_or_none()
    finished = [row.id for row in rows if row.processing_status in FINISHED_STATES]
    return finished, Cursor(*end) if end else None


async def _differing(res: Resources, email_ids: Sequence[int], plan: ReparsePlan) -> list[Difference]:
    async def load(conn: AsyncConnection) -> tuple[list[StoredRequest], list[list[FileRecord]]]:
        requests = await reparsing.load(conn, email_ids)
        return requests, await files_of(conn, [each.email_id for each in requests])

    requests, files = await res.run(load)
    plan.matching += len(email_ids)
    plan.unreadable += len(email_ids) - len(requests)
    found = []
    for request, its_files in zip(requests, files, strict=True):
        changes = _changes(request, its_files)
        if changes is None:
            plan.unreadable += 1
        elif changes:
            counts = len(changes.added), len(changes.corrected)
            found.append(Difference(request.email_id, sorted(changes.fields), *counts))
        await asyncio.sleep(0)  # parsing takes time: let other tasks run
    return found


def _changes(request: StoredRequest, files: Sequence[parsing.RecordedFile]) -> Changes | None:
    try:
        email = parsing.read(parsing.headers_of(request.headers), request.body)
    except Unreadable:
        return None
    return None if isinstance(email, Ignored) else parsing.compare(request.columns, files, email)
