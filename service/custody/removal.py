"""Remove e-mails with all that hangs on them, in one transaction; objects and documents follow later."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Boolean, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody import objects, receipts
from service.jobs.removed_rows import Contents, contents_of, delete_rows, forget_tickets
from service.postgres import evidence_log
from service.postgres.email_tables import FINISHED
from service.postgres.engine import transaction
from service.postgres.held_emails import held_among


@dataclass(frozen=True, slots=True)
class RemovedEmail:
    """An e-mail that was removed; `contents` are the SHA-256 of its files, message record and original."""

    email_id: int
    document_keys: Sequence[str]  # its own, and those of e-mails that had become part of it
    version: int  # of the document that replaces its own in the targets
    files: int = 0
    bytes: int = 0
    contents: frozenset[str] = frozenset()


async def remove(
    conn: AsyncConnection, email_ids: Sequence[int], receipt_id: int, *, unfinished: bool = False
) -> list[RemovedEmail]:
    """Remove e-mails, and add them to a receipt; return those that were removed, in the order of ids.

    Held e-mails stay, and so do unfinished ones, unless `unfinished`: a running attempt then loses its claim, because the
    row is gone. The statements join the caller's `transaction`, if there is one. Afterwards, `custody/objects` removes
    the objects that nobody names any more, and `custody/documents` tells the targets.
    """
    async with transaction(conn):
        # The tables may be new and without statistics: Postgres would read all of a table for each row.
        await conn.execute(_BY_INDEX)
        # The first look takes the lock of holds, before any row. The second look sees the rows as they are locked.
        held = await held_among(conn, email_ids)
        free = sorted({*email_ids} - held.keys())
        locked = list(await conn.scalars(_LOCK, {"email_ids": free, "unfinished": unfinished}))
        held |= await held_among(conn, locked)
        chosen = [email_id for email_id in locked if email_id not in held]
        removed = await _remove(conn, chosen, receipt_id) if chosen else []
        await _count(conn, receipt_id, removed, len(held))
    return removed


async def _remove(conn: AsyncConnection, email_ids: Sequence[int], receipt_id: int) -> list[RemovedEmail]:
    contents = await contents_of(conn, email_ids)
    deleted = await delete_rows(conn, email_ids, receipt_id)
    await evidence_log.remove(conn, deleted.email_ids, {"receipt": receipt_id})
    await forget_tickets(conn, deleted.tickets)
    keys: dict[int, list[str]] = {email_id: [] for email_id in email_ids}
    for row in deleted.documents:
        keys[row.became].append(row.document_key)
    versions = {row.email_id: row.version for row in deleted.documents}
    return [
        RemovedEmail(
            email_id, keys[email_id], versions[email_id], own.files, own.bytes, frozenset(own.hashes)
        )
        for email_id in email_ids
        for own in (contents.get(email_id, Contents()),)
    ]


async def _count(conn: AsyncConnection, receipt_id: int, removed: Sequence[RemovedEmail], held: int) -> None:
    """Add e-mails to the receipt, and request the removal of their objects."""
    await receipts.add_entries(
        conn, receipt_id, {f"email {key}" for email in removed for key in email.document_keys}
    )
    await objects.request(conn, receipt_id, {sha256 for email in removed for sha256 in email.contents})
    counts = {
        "emails": len(removed),
        "files": sum(email.files for email in removed),
        "bytes": sum(email.bytes for email in removed),
        "held": held,
    }
    if any(counts.values()):
        await conn.execute(_COUNT, {"receipt_id": receipt_id, **counts})


_BY_INDEX = text("SELECT set_config('enable_seqscan', 'off', true)")
_LOCK = text(f"""
SELECT id FROM incoming_emails WHERE id = ANY(:email_ids) AND (:unfinished OR {FINISHED}) ORDER BY id FOR UPDATE
""").bindparams(  # noqa: S608 constants of ours
    bindparam("email_ids", type_=ARRAY(BigInteger)), bindparam("unfinished", type_=Boolean())
)
_COUNT = text("""
UPDATE receipts SET emails = emails + :emails, files = files + :files, bytes = bytes + :bytes, held = held + :held
WHERE id = :receipt_id
""").bindparams(bindparam("receipt_id", type_=BigInteger()))
