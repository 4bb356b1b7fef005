"""References to objects: none is written to an object that is being removed, or that was removed.

A put that finds its object does not write it. So an object may be removed between a put and the reference to it. Each
statement that writes a reference therefore locks the row of `objects_to_remove`, if there is one. `custody/objects` has
the other half of the protocol.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import HoldfastError, Permanent, Transient
from service.storage import objects
from service.storage.objects import Storage

T = TypeVar("T")

OBJECT_REMOVED = "object_removed"
# For each key, the number of its last removal: the object was seen after that removal.
Proofs = Mapping[str, int]


class ObjectRemoved(HoldfastError):
    """References were not written. `removals` has the number of each removal, or None while it runs."""

    def __init__(self, removals: Mapping[str, int | None]) -> None:
        super().__init__(
            OBJECT_REMOVED, "An equal file was removed at this moment. Another attempt stores it."
        )
        self.removals = removals


async def lock_objects(conn: AsyncConnection, keys: Sequence[str], proofs: Proofs) -> None:
    """Keep these objects from being removed until the end of the transaction, which writes references to them.

    Raises ObjectRemoved if one of them is being removed, or was removed and there is no proof of a later put.
    """
    if refused := await removals_of(conn, keys, proofs):
        raise ObjectRemoved(refused)


async def removals_of(conn: AsyncConnection, keys: Sequence[str], proofs: Proofs) -> dict[str, int | None]:
    """Lock objects as `lock_objects` does; return the removals of those that no reference may name."""
    wanted = sorted(set(keys))
    rows = await conn.execute(_LOCK, {"keys": wanted})
    return {
        row.key: row.number if row.state == "removed" else None
        for row in rows
        if is_refused(row.state, row.number, proofs.get(row.key))
    }


def is_refused(state: str, number: int, proof: int | None) -> bool:
    """Say whether no reference may be written to an object in this state."""
    return state == "removing" or (state == "removed" and number != proof)


async def write_references(storage: Storage, write: Callable[[Proofs], Awaitable[T]]) -> T:
    """Write references; where an equal object was removed, make sure that there is one now, and write them again.

    Raises Transient("object_removed") if there is none: the next attempt stores it.
    """
    try:
        return await write({})
    except ObjectRemoved as exc:
        removed = exc
    try:
        return await write(await _prove(storage, removed))
    except ObjectRemoved as again:
        raise _another_attempt(again) from again


async def _prove(storage: Storage, removed: ObjectRemoved) -> Proofs:
    """See each object after its removal: from then on, only a new removal can take it away."""
    proofs = {}
    for key, number in removed.removals.items():
        if number is None:
            raise _another_attempt(removed)
        try:
            await objects.stat(storage, key)
        except Permanent as exc:
            raise _another_attempt(removed) from exc
        proofs[key] = number
    return proofs


def _another_attempt(removed: ObjectRemoved) -> Transient:
    return Transient(OBJECT_REMOVED, removed.message, counts=False)


# FOR SHARE waits for a removal that begins at this moment, and then reads its newest state.
_LOCK = text("""
SELECT key, state, number FROM objects_to_remove WHERE key = ANY(:keys) ORDER BY key FOR SHARE
""").bindparams(bindparam("keys", type_=ARRAY(Text)))
