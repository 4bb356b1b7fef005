"""Suspended e-mails: Zendesk holds them back without a ticket or a webhook, and deletes them after two weeks.

https://developer.zendesk.com/api-reference/ticketing/tickets/suspended_tickets/
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy import BigInteger, DateTime, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.backfill.record import Held, lease_lost
from service.errors import HoldfastError, Transient
from service.jobs.erased import ERASED, erased_contents
from service.jobs.loose_objects import put
from service.jobs.object_references import Proofs, lock_objects, write_references
from service.outbound.responses import Expected, Limits
from service.postgres.engine import transaction
from service.postgres.source_tables import SuspendedEmail
from service.postgres.tombstones import is_erased, suspended_hash
from service.resources import Resources
from service.storage.objects import StoredObject
from service.telemetry.metrics import SUSPENDED_EMAILS
from service.zendesk.exports import Suspended, next_page, read_suspended
from service.zendesk.files import AnnouncedFile

MOST_PAGES = 100
# One step keeps so many new ones. The next step goes on, and the current search may go first.
MOST_NEW = 50
# For two days, a recovered e-mail is looked for among so many of the newest messages.
NEWEST = 20_000
RESERVE = 0.2
# A file that fails is tried again for so long; Zendesk deletes suspended e-mails after two weeks.
PATIENCE = timedelta(days=7)

_PATH = "/api/v2/suspended_tickets.json"

log = structlog.get_logger()


class _FileNotYet(Exception):
    """A file cannot be stored now."""

    def __init__(self, error: HoldfastError) -> None:
        self.error = error


async def read(res: Resources, held: Held) -> bool:
    """Keep the suspended e-mails that Zendesk lists; return False if some are left to the next step.

    Raises as the client's `get` does, and Transient of Postgres and the storage.
    """
    began, new, is_whole = held.now, 0, False
    problem: HoldfastError | None = None
    query = {"page[size]": "100"}
    for number in range(1, MOST_PAGES + 1):
        page = await res.zendesk.get(_PATH, query, reserve=RESERVE)
        listed = await asyncio.to_thread(read_suspended, page)
        known = await res.run(partial(_see, held=held, ids=[each.suspended_id for each in listed]))
        for item in listed:
            if item.suspended_id not in known and new < MOST_NEW:
                try:
                    new += await _keep(res, held, item)
                except _FileNotYet as exc:
                    problem = exc.error
            elif item.suspended_id not in known:
                return False
        following = next_page(page, number)
        is_whole = following is None
        if following is None:
            break
        query = following
    await res.run(partial(_settle, held=held, began=began, is_whole=is_whole))
    if new:
        log.info("suspended_emails_kept", new=new)
    if problem is not None:
        raise problem
    return True


async def _keep(res: Resources, held: Held, item: Suspended) -> int:
    """Store a suspended e-mail with its files; return 1. A lasting error of a file is recorded with the file.

    Raises _FileNotYet for an error that may pass, as long as Zendesk is sure to have the e-mail still.
    """
    record = await put(res, _whole(item.record), "suspended.json", None)
    is_young = item.created_at is None or held.now - item.created_at < PATIENCE
    files = [await _file(res, file, is_young=is_young) for file in item.files]
    insert = partial(_insert, held=held, item=item, record=record, files=files)
    await write_references(res.storage, lambda proofs: res.run(partial(insert, proofs=proofs)))
    SUSPENDED_EMAILS.inc()
    return 1


async def _file(res: Resources, file: AnnouncedFile, *, is_young: bool) -> dict[str, Any]:
    """Store a file; raises Transient of the storage, and _FileNotYet."""
    about: dict[str, Any] = {
        "file_name": file.file_name,
        "size": file.size,
        "content_type": file.content_type,
        "sha256": None,
        "object_key": None,
        "error_code": None,
    }
    settings = res.settings
    limits = Limits(settings.max_attachment_bytes, settings.download_seconds, settings.download_stall_seconds)
    expected = Expected(file.file_name, file.content_type, file.size)
    try:
        async with res.slots, res.zendesk.file(file.url, expected, limits) as download:
            stored = await put(res, download.chunks, file.file_name, None)
    except HoldfastError as exc:
        if exc.code.startswith("storage_"):
            raise
        if isinstance(exc, Transient) and is_young:
            raise _FileNotYet(exc) from exc
        return {**about, "error_code": exc.code}
    return {**about, "size": stored.size, "sha256": stored.sha256, "object_key": stored.key}


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _see(conn: AsyncConnection, held: Held, ids: Sequence[str]) -> set[str]:
    """Note that Zendesk lists these; return those that are on record, or were erased."""
    given = {"account": held.account, "ids": list(ids)}
    return {*await conn.scalars(_SEE, given), *await conn.scalars(_ERASED, given)}


async def _insert(  # noqa: PLR0913, PLR0917 the parts of one row
    conn: AsyncConnection,
    held: Held,
    item: Suspended,
    record: StoredObject,
    files: Sequence[dict[str, Any]],
    proofs: Proofs,
) -> None:
    """Record a suspended e-mail, unless another process has the lease; raises ObjectRemoved as `lock_objects` does."""
    names = (
        "suspended_id",
        "ticket_id",
        "subject",
        "from_address",
        "from_name",
        "recipient",
        "cause",
        "message_id",
    )
    row: dict[str, Any] = {
        "account": held.account,
        **{name: getattr(item, name) for name in (*names, "text", "created_at")},
        "files": list(files),
        "record_sha256": record.sha256,
        "record_key": record.key,
        "record_size": record.size,
        "contents": [record.sha256, *(file["sha256"] for file in files if file["sha256"])],
    }
    keys = [record.key, *(file["object_key"] for file in files if file["object_key"])]
    async with transaction(conn):
        await _fence(conn, held)
        stored = {file["sha256"]: file["object_key"] for file in files if file["sha256"]}
        if erased := await erased_contents(conn, stored):
            gone = {"sha256": None, "object_key": None, "error_code": ERASED}
            row["files"] = [{**file, **gone} if file["sha256"] in erased else file for file in files]
            row["contents"] = [sha256 for sha256 in row["contents"] if sha256 not in erased]
        await lock_objects(conn, keys, proofs)
        await conn.execute(pg_insert(SuspendedEmail).values(**row).on_conflict_do_nothing())


async def _settle(conn: AsyncConnection, held: Held, began: datetime, *, is_whole: bool) -> None:
    """Note which ones Zendesk no longer lists, and which e-mails they became."""
    async with transaction(conn):
        await _fence(conn, held)
        if is_whole:
            await conn.execute(_GONE, {"account": held.account, "began": began})
        await conn.execute(_RECOVERED, {"account": held.account, "newest": NEWEST})


async def _fence(conn: AsyncConnection, held: Held) -> None:
    if await conn.scalar(_MINE, {"account": held.account, "number": held.number}) is None:
        raise lease_lost()


_MINE = text(
    "SELECT account FROM sources WHERE account = :account AND lease_number = :number FOR NO KEY UPDATE"
)
_SEE = text("""
UPDATE suspended_emails SET seen_at = now(), gone_at = NULL FROM (
    SELECT id FROM suspended_emails WHERE account = :account AND suspended_id = ANY(:ids)
    ORDER BY id FOR NO KEY UPDATE
) AS known
WHERE suspended_emails.id = known.id RETURNING suspended_id
""").bindparams(bindparam("ids", type_=ARRAY(Text)))
_ERASED = text(f"""
SELECT id FROM unnest(:ids) AS listed (id) WHERE {is_erased([suspended_hash(":account", "listed.id")])}
""").bindparams(bindparam("ids", type_=ARRAY(Text)), bindparam("account", type_=Text()))  # noqa: S608 words of ours
_GONE = text("""
UPDATE suspended_emails SET gone_at = now() WHERE account = :account AND gone_at IS NULL AND seen_at < :began
""").bindparams(bindparam("began", type_=DateTime(timezone=True)))
_RECOVERED = text("""
UPDATE suspended_emails SET email_id = newest.email_id
FROM (SELECT email_id, message_id FROM messages ORDER BY email_id DESC LIMIT :newest) AS newest
WHERE account = :account AND suspended_emails.email_id IS NULL AND suspended_emails.message_id = newest.message_id
    AND (gone_at IS NULL OR gone_at > now() - interval '2 days')
""").bindparams(bindparam("newest", type_=BigInteger()))
