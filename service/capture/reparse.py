"""Reparse the stored body of a retried e-mail before its attempt, for the parser may be newer."""

from dataclasses import replace
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service.capture.telemetry import names
from service.jobs import reparsing
from service.jobs.attachments import FileRecord, announced_row, files_of
from service.jobs.attempts import Claim
from service.jobs.reparsing import RecordChanges, StoredRequest
from service.resources import Resources
from service.zendesk import parsing
from service.zendesk.body import Unreadable
from service.zendesk.parsing import Changes
from service.zendesk.payloads import Ignored

_IDENTITY = {"account_id", "zendesk_ticket_id", "comment_id"}

log = structlog.get_logger()


async def reparse(res: Resources, claim: Claim) -> Claim:
    """Update the record from its body, and return the updated claim.

    Nothing changes where the body cannot be read, or was never stored. Raises Transient where Postgres is away.
    """
    columns, changes = await _compare(res, claim)
    new = RecordChanges(
        columns,
        corrected=[announced_row(position, file) for position, file in changes.corrected.items()],
        added=[announced_row(position, file) for position, file in enumerate(changes.added)],
        withdrawn=changes.withdrawn,
    )
    updated = await res.insist(partial(reparsing.update_record, token=claim.fencing_token, changes=new))
    if updated is None:  # the claim is lost, and all its writes are refused
        return claim
    if changes:
        log.info(
            "email_reparsed",
            **names(claim),
            fields=sorted(changes.fields),
            added=len(changes.added),
            corrected=len(changes.corrected),
            withdrawn=len(changes.withdrawn),
        )
    return replace(claim, **updated._asdict(), reread=False)


async def _compare(res: Resources, claim: Claim) -> tuple[dict[str, object], Changes]:
    """Return the columns to write, and the changes for the log."""

    async def load(conn: AsyncConnection) -> tuple[list[StoredRequest], list[FileRecord]]:
        return await reparsing.load(conn, [claim.email_id]), (await files_of(conn, [claim.email_id]))[0]

    requests, files = await res.insist(load)
    nothing = Changes({}, {}, [], [])
    if not requests:
        return {}, nothing
    try:
        email = parsing.read(parsing.headers_of(requests[0].headers), requests[0].body)
    except Unreadable:
        return {}, nothing
    if isinstance(email, Ignored):
        return {}, nothing
    changes = parsing.compare(requests[0].columns, files, email)
    # Zendesk told the missing facts: the comment, and its author.
    told = {name: value for name, value in changes.fields.items() if value or name == "attachment_urls"}
    if requests[0].columns["identified"]:
        told = {name: value for name, value in told.items() if name not in _IDENTITY}
    changes = replace(changes, fields=told)
    return {**told, "reading_hash": parsing.fingerprint(email)}, changes
