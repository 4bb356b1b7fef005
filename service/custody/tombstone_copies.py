"""Copies of the tombstones: a backup that is older than an erasure brings erased content back when it is restored.

A copy names nobody: it has the salt and hashes, and a hash tells nothing without the salt's installation.
"""

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, LargeBinary, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody import receipts
from service.errors import Rejected
from service.jobs.tombstones import make_salt
from service.postgres.engine import connect, transaction
from service.postgres.rows import in_batches
from service.resources import Resources

PAGE = 5_000
_FORMAT = "holdfast tombstones 1"
_WRONG = Rejected(422, "tombstones_wrong", "This is no whole copy of tombstones.")


async def copied(res: Resources) -> AsyncIterator[str]:
    """Yield the lines of a copy: a header with the salt, a tombstone each, and their number."""
    async with connect(res.engine) as conn:
        salt = await conn.scalar(_SALT)
    yield json.dumps({"format": _FORMAT, "salt": salt.hex() if salt else None})
    after, number = b"", 0
    while True:
        async with connect(res.engine) as conn:
            rows = (await conn.execute(_PAGE, {"after": after, "limit": PAGE})).all()
        for row in rows:
            yield json.dumps({"hash": row.hash.hex(), "until": row.until.isoformat() if row.until else None})
        number += len(rows)
        if len(rows) < PAGE:
            break
        after = rows[-1].hash
    yield json.dumps({"number": number})


async def restore(res: Resources, lines: Iterable[str], actor: str) -> int:
    """Add the tombstones of a copy, and begin the erasure of all that they recognise; return its number.

    Safe to repeat. Raises Rejected for a wrong copy (422), for one of another installation, or without tombstones (409).
    """
    salt, tombstones = _read(lines)
    async with connect(res.engine) as conn, transaction(conn):
        await make_salt(conn, salt)
        if await conn.scalar(_SALT) != salt:
            other = "These are tombstones of another installation: their salt is another one."
            raise Rejected(409, "tombstones_foreign", other)
        for some in in_batches(tombstones, PAGE):
            hashes, times = zip(*some, strict=True)
            await conn.execute(_ADD, {"hashes": list(hashes), "times": list(times)})
        return await _begin(conn, actor)


async def _begin(conn: AsyncConnection, actor: str) -> int:
    receipt_id = await receipts.begin(conn, "erasure", actor, "The database was restored.")
    return int(await conn.scalar(_BEGIN, {"receipt": receipt_id, "actor": actor}) or 0)


def _read(lines: Iterable[str]) -> tuple[bytes, list[tuple[bytes, datetime | None]]]:
    try:
        header, *rows = _parsed(lines)
        if header["format"] != _FORMAT or rows.pop()["number"] != len(rows):
            raise _WRONG
        if header["salt"] is None:
            raise Rejected(409, "nothing_to_erase", "The copy has no tombstones: nothing was erased.")
        tombstones = [
            (bytes.fromhex(row["hash"]), datetime.fromisoformat(row["until"]) if row["until"] else None)
            for row in rows
        ]
        return bytes.fromhex(header["salt"]), tombstones
    except (ValueError, KeyError, TypeError, IndexError) as exc:
        raise _WRONG from exc


def _parsed(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in lines if line.strip())


_SALT = text("SELECT salt FROM erasure_salts").columns(salt=LargeBinary())
_PAGE = text("SELECT hash, until FROM tombstones WHERE hash > :after ORDER BY hash LIMIT :limit").bindparams(
    bindparam("after", type_=LargeBinary()), bindparam("limit", type_=BigInteger())
)
_ADD = text("""
INSERT INTO tombstones (hash, until)
SELECT hash, until FROM unnest(:hashes, :times) AS made (hash, until) ORDER BY hash
ON CONFLICT (hash) DO UPDATE SET until = greatest(tombstones.until, excluded.until)
""").bindparams(
    bindparam("hashes", type_=ARRAY(LargeBinary)), bindparam("times", type_=ARRAY(DateTime(timezone=True)))
)
# Every row may be one that was restored.
_BEGIN = text("""
INSERT INTO erasures (receipt_id, actor, scope, subject, phase, last_email, last_quarantined, last_ignored)
VALUES (:receipt, :actor, 'restored', '', 'late', 0, 0, 0) RETURNING id
""").bindparams(bindparam("receipt", type_=BigInteger()), bindparam("actor", type_=Text()))
