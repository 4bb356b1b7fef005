"""Signed heads of the tree: made in Postgres, and then put where Postgres's owner cannot change them."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import structlog
from sqlalchemy import BigInteger, DateTime, LargeBinary, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent
from service.evidence.keys import SigningKeys
from service.evidence.tree import Tree
from service.resources import Resources
from service.storage import objects

# Heads that one call puts into the storage.
MOST_PUT = 100

log = structlog.get_logger()


async def make(conn: AsyncConnection, log_id: str, tree: Tree, keys: SigningKeys) -> int:
    """Sign the present size and root, in the transaction that holds the lock of the log; return the head's number."""
    last = (await conn.execute(_LAST)).one_or_none()
    at = await conn.scalar(_NOW)
    assert isinstance(at, datetime)  # noqa: S101 Postgres has a clock
    body = json.dumps(
        {
            "at": at.astimezone(UTC).isoformat(),
            "key": keys.public.hex(),
            "log": log_id,
            "number": 1 if last is None else last.number + 1,
            "previous": None if last is None else fingerprint(last.body, last.signature),
            "root": tree.root.hex(),
            "size": tree.size,
        },
        sort_keys=True,
    )
    number = int(json.loads(body)["number"])
    given = {
        "number": number,
        "size": tree.size,
        "root": tree.root,
        "at": at,
        "body": body,
        "public_key": keys.public,
        "signature": keys.sign(body),
        "object_key": key_of(log_id, number),
    }
    await conn.execute(_INSERT, given)
    await conn.execute(_NOTE, {"at": at})
    return number


async def put(res: Resources) -> int:
    """Put heads that the storage does not have into it; return how many.

    After a restore of Postgres, the storage may have another head of the same number. It stays, and ours gets a key of its
    own. Raises as `objects.put` does, and Permanent("head_differs") if the storage has something else there, too.
    """
    waiting = await res.run(_not_stored)
    for head in waiting:
        stored = {"number": head.number, "object_key": await _put(res, head)}
        await res.run(lambda conn, stored=stored: conn.execute(_STORED, stored))  # type: ignore[misc]
    return len(waiting)


async def _put(res: Resources, head: Any) -> str:  # noqa: ANN401 a row
    """Return the key under which the storage has exactly this head."""
    content = document(head.body, head.signature)
    log_id = str(json.loads(head.body)["log"])
    for key in keys_of(log_id, head.number, fingerprint(head.body, head.signature)):
        await objects.keep_head(res.storage, key, content)
        if await objects.read_head(res.storage, key) == content:
            return key
        log.warning("evidence_head_differs", key=key)
    raise Permanent("head_differs", f"the storage has other bytes in the place of head {head.number}")


def document(body: str, signature: bytes) -> bytes:
    """Return a head as it is in storage and in mails: the signed text, and its signature."""
    return json.dumps({"body": body, "signature": signature.hex()}, indent=1).encode()


def key_of(log_id: str, number: int) -> str:
    """Return the key of a head in storage, by which the newest is found without Postgres."""
    return f"heads/{log_id}/{number:012}.json"


def keys_of(log_id: str, number: int, own: str) -> tuple[str, str]:
    """Return the keys that a head may have: by its number, or by its own fingerprint if another head is there."""
    return key_of(log_id, number), f"heads/{log_id}/{number:012}-{own[:16]}.json"


def fingerprint(body: str, signature: bytes) -> str:
    """Return the hash of a head, by which the next one names it."""
    return sha256(body.encode() + signature).hexdigest()


async def _not_stored(conn: AsyncConnection) -> list[Any]:
    return [*(await conn.execute(_NOT_STORED, {"limit": MOST_PUT})).all()]


_LAST = text("SELECT number, body, signature FROM evidence_heads ORDER BY number DESC LIMIT 1")
_NOW = text("SELECT clock_timestamp()")
_INSERT = text("""
INSERT INTO evidence_heads (number, size, root, at, body, public_key, signature, object_key)
VALUES (:number, :size, :root, :at, :body, :public_key, :signature, :object_key)
""").bindparams(
    *(bindparam(name, type_=BigInteger()) for name in ("number", "size")),
    *(bindparam(name, type_=LargeBinary()) for name in ("root", "public_key", "signature")),
    bindparam("at", type_=DateTime(timezone=True)),
)
_NOTE = text("UPDATE evidence_log SET head_at = :at WHERE id = 1").bindparams(
    bindparam("at", type_=DateTime(timezone=True))
)
_NOT_STORED = text("""
SELECT number, body, signature FROM evidence_heads WHERE stored_at IS NULL ORDER BY number LIMIT :limit
""")
_STORED = text(
    "UPDATE evidence_heads SET (stored_at, object_key) = (now(), :object_key) WHERE number = :number"
)
