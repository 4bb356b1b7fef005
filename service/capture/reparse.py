"""Read an e-mail's body again before its attempt: the parser may have learned something since the last time."""

from dataclasses import replace
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import reparsing
from service.jobs.attachments import FileRecord, announced_row, files_of
from service.jobs.attempts import Claim
from service.jobs.reparsing import RecordChanges, StoredRequest
from service.postgres.engine import insist, run
from service.resources import Resources
from service.zendesk import reading
from service.zendesk.body import Unreadable
from service.zendesk.payloads import Ignored
from service.zendesk.reading import Changes

log = structlog.get_logger()


async def reread(res: Resources, claim: Claim) -> Claim:
    """Bring the record up to what its body says, and return the claim with what changed of it.

    What cannot be read any more, or never was kept, stays as it is. Raises Transient where Postgres is away.
    """
    columns, changes = await _compare(res, claim)
    new = RecordChanges(
        columns,
        corrected=[announced_row(position, file) for position, file in changes.corrected.items()],
        added=[announced_row(position, file) for position, file in enumerate(changes.added)],
        withdrawn=changes.withdrawn,
    )
    write = partial(reparsing.rewrite, held=claim.fencing_token, new=new)
    read = await insist(partial(run, res.engine, res.settings.database_seconds, write))
    if read is None:  # the claim is lost, and whatever it writes is refused
        return claim
    if changes:
        log.info(
            "email_reread",
            email=claim.email_id,
            attempt=claim.attempt_number,
            fields=sorted(changes.fields),
            added=len(changes.added),
            corrected=len(changes.corrected),
            withdrawn=len(changes.withdrawn),
        )
    return replace(claim, **read._asdict(), reread=False)


async def _compare(res: Resources, claim: Claim) -> tuple[dict[str, object], Changes]:
    """Return the columns to write, and what changes."""

    async def look(conn: AsyncConnection) -> tuple[list[StoredRequest], list[FileRecord]]:
        return await reparsing.load(conn, [claim.email_id]), (await files_of(conn, [claim.email_id]))[0]

    kept, files = await insist(partial(run, res.engine, res.settings.database_seconds, look))
    nothing = Changes({}, {}, [], [])
    if not kept:
        return {}, nothing
    try:
        email = reading.read(reading.headers_of(kept[0].headers), kept[0].body)
    except Unreadable:
        return {}, nothing
    if isinstance(email, Ignored):
        return {}, nothing
    changes = reading.compare(kept[0].columns, files, email)
    columns = {**changes.fields, "reading_hash": reading.fingerprint(email)}
    return columns, changes
