"""Receipts: the lasting record of each purge and each erasure, with a hash that proves the list of removed things.

The list has a line for each document key (`email KEY`) and each content (`sha256 HASH`), sorted by bytes. Its SHA-256 stays,
the list does not: whoever has the list can prove that it is the one.
"""

import hashlib
from collections.abc import Collection
from typing import Literal

from sqlalchemy import BigInteger, Integer, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres import evidence_log
from service.postgres.engine import transaction
from service.resources import Resources

# Lines per statement.
PAGE = 10_000


async def begin(
    conn: AsyncConnection, kind: Literal["purge", "erasure"], actor: str, reason: str | None = None
) -> int:
    """Begin a receipt; return its number. There is one running purge at most."""
    given = {"kind": kind, "actor": actor, "reason": reason}
    return int((await conn.execute(_BEGIN, given)).scalar_one())


async def add_entries(conn: AsyncConnection, receipt_id: int, entries: Collection[str]) -> None:
    """Add lines to the list of a receipt; those that it has stay."""
    if entries:
        await conn.execute(_ADD, {"receipt_id": receipt_id, "entries": sorted(entries)})


async def finish(res: Resources, receipt_id: int) -> None:
    """End a receipt whose e-mails are all removed: write its hash, and forget the list. It may be repeated."""
    digest, contents = await _digest(res, receipt_id)
    given = {"receipt_id": receipt_id, "digest": digest, "objects": contents}
    await res.insist(lambda conn: _end(conn, given))
    await forget_lists(res)


async def forget_lists(res: Resources) -> None:
    """Delete the lists of receipts that have their hash."""
    while await res.insist(_forget_some):
        pass


async def _digest(res: Resources, receipt_id: int) -> tuple[str, int]:
    """Return the hash of the list, and the number of contents in it."""
    found, contents, after = hashlib.sha256(), 0, ""
    while True:
        given = {"receipt_id": receipt_id, "after": after, "page": PAGE}
        rows = await res.insist(lambda conn, given=given: _entries(conn, given))  # type: ignore[misc]
        for entry in rows:
            found.update(f"{entry}\n".encode())
            contents += entry.startswith("sha256 ")
        if len(rows) < PAGE:
            return found.hexdigest(), contents
        after = rows[-1]


async def _end(conn: AsyncConnection, given: dict[str, object]) -> None:
    """End a receipt, and write it into the evidence log; do nothing where it has ended."""
    async with transaction(conn):
        row = (await conn.execute(_FINISH, given)).mappings().one_or_none()
        if row is not None:
            await evidence_log.record(conn, "receipt", [dict(row)])


async def _entries(conn: AsyncConnection, given: dict[str, object]) -> list[str]:
    return list(await conn.scalars(_ENTRIES, given))


async def _forget_some(conn: AsyncConnection) -> int:
    return (await conn.execute(_FORGET, {"page": PAGE})).rowcount


_ID = bindparam("receipt_id", type_=BigInteger())
_BEGIN = text("""
INSERT INTO receipts (kind, actor, reason) VALUES (:kind, :actor, :reason) RETURNING id
""").bindparams(*(bindparam(name, type_=Text()) for name in ("kind", "actor", "reason")))
_ADD = text("""
INSERT INTO receipt_entries (receipt_id, entry) SELECT :receipt_id, unnest(:entries) ON CONFLICT DO NOTHING
""").bindparams(_ID, bindparam("entries", type_=ARRAY(Text)))
_ENTRIES = text("""
SELECT entry FROM receipt_entries WHERE receipt_id = :receipt_id AND entry > :after ORDER BY entry LIMIT :page
""").bindparams(_ID, bindparam("page", type_=Integer()))
_FINISH = text("""
UPDATE receipts SET status = 'done', digest = :digest, objects = :objects, ended_at = now()
WHERE id = :receipt_id AND status = 'running'
RETURNING id AS receipt, kind AS what, emails, files, bytes, objects, digest
""").bindparams(_ID)
_FORGET = text("""
DELETE FROM receipt_entries WHERE ctid = ANY(ARRAY(
    SELECT receipt_entries.ctid FROM receipt_entries JOIN receipts ON id = receipt_id WHERE status = 'done' LIMIT :page
))
""").bindparams(bindparam("page", type_=Integer()))
