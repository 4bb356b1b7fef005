"""The sequencer: it gives entries their places in the tree, and makes signed heads. One process at a time does that."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy import BigInteger, LargeBinary, SmallInteger, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.evidence import heads
from service.evidence.keys import new_key, signing_keys
from service.evidence.tree import Tree, leaf_hash
from service.postgres.engine import transaction
from service.resources import Resources

# Entries that one transaction places.
BATCH = 5_000
# A head follows the last one after this time, or, where nothing was added, after the longer one.
HEAD_EVERY = timedelta(hours=1)
IDLE_HEAD_EVERY = timedelta(days=1)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sequenced:
    """What one step did: how many entries it placed, whether more wait, and the number of the head that it made."""

    placed: int
    has_more: bool
    head: int | None


async def begin(res: Resources) -> None:
    """Make the state of the log, once."""
    given = {"log_id": uuid4().hex, "private_key": new_key()}

    async def insert(conn: AsyncConnection) -> None:
        await conn.execute(_BEGIN, given)

    await res.run(insert)


async def step(
    res: Resources, *, batch: int = BATCH, wants_head: bool = False, waits: bool = False
) -> Sequenced | None:
    """Place the next entries, and make a head if one is due or wanted.

    Return None where another process is doing that, unless this call waits for it.
    """
    lock = _LOCK if waits else _LOCK_OR_SKIP
    return await res.run(lambda conn: _step(conn, res, batch, lock, wants_head=wants_head))


async def _step(
    conn: AsyncConnection, res: Resources, batch: int, lock: TextClause, *, wants_head: bool
) -> Sequenced | None:
    async with transaction(conn):
        # Before this transaction gets its id: entries up to here belong to transactions with smaller ids.
        newest = int(await conn.scalar(_NEWEST) or 0)
        state = (await conn.execute(lock)).one_or_none()
        if state is None:
            return None
        rows = (await conn.execute(_NEXT, {"low": state.low, "limit": batch})).all()
        tree = Tree.of(state.size, state.peaks)
        if rows:
            await _place(conn, tree, rows)
        await _move_low(conn, state, rows[-1].id if len(rows) == batch else None, newest)
        head = None
        # With a backlog, entries after the head would be older than the head.
        if wants_head or (len(rows) < batch and _is_due(state, tree.size)):
            keys = signing_keys(res.settings, state.private_key)
            head = await heads.make(conn, state.log_id, tree, keys)
    return Sequenced(len(rows), len(rows) == batch, head)


async def _place(conn: AsyncConnection, tree: Tree, rows: Sequence[Any]) -> None:
    first = tree.size
    # An erased entry has its hash, and no longer its facts.
    hashes = [row.hash or leaf_hash(row.salt, row.facts.encode()) for row in rows]
    nodes = tree.extend(hashes)
    await conn.execute(
        _INSERT_LEAVES, {"first": first, "entries": [row.id for row in rows], "hashes": hashes}
    )
    if nodes:
        levels, indexes, found = zip(*nodes, strict=True)
        given = {"levels": [*levels], "indexes": [*indexes], "hashes": [*found]}
        await conn.execute(_INSERT_NODES, given)
    await conn.execute(_GROW, {"size": tree.size, "peaks": b"".join(tree.peaks)})


async def _move_low(conn: AsyncConnection, state: Any, last: int | None, newest: int) -> None:  # noqa: ANN401 a row
    """Move the number below which no entry is still to come; `last` is where this step stopped, if more wait."""
    low, next_low, next_xid = state.low, state.next_low, state.next_xid
    if next_xid is not None and state.oldest_xid > next_xid:
        low = max(low, next_low if last is None else min(next_low, last))
        next_low = next_low if low < next_low else None
    # After a restore, the ids of transactions are those of another server.
    if next_low is None or (next_xid or 0) > state.xid:
        next_low, next_xid = (newest, state.xid) if newest > low else (None, None)
    if (low, next_low, next_xid) != (state.low, state.next_low, state.next_xid):
        await conn.execute(_MOVE_LOW, {"low": low, "next_low": next_low, "next_xid": next_xid})


def _is_due(state: Any, size: int) -> bool:  # noqa: ANN401 a row
    if size == 0:
        return False
    if state.head_age is None:
        return True
    has_grown = size > (state.head_size or 0)
    return bool(state.head_age >= (HEAD_EVERY if has_grown else IDLE_HEAD_EVERY))


_BEGIN = text("""
INSERT INTO evidence_log (id, log_id, private_key, peaks) VALUES (1, :log_id, :private_key, '') ON CONFLICT DO NOTHING
""").bindparams(bindparam("private_key", type_=LargeBinary()))
_NEWEST = text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM evidence_entries_id_seq")
_STATE = """
SELECT *, now() - head_at AS head_age, (SELECT size FROM evidence_heads ORDER BY number DESC LIMIT 1) AS head_size,
    CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS xid,
    CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS oldest_xid
FROM evidence_log WHERE id = 1 FOR UPDATE
"""
_LOCK, _LOCK_OR_SKIP = text(_STATE), text(f"{_STATE} SKIP LOCKED")
# A scalar subquery: for a NOT EXISTS, Postgres may read all leaves.
_NEXT = text("""
SELECT id, salt, facts, hash FROM evidence_entries
WHERE id > :low AND (SELECT index FROM evidence_leaves WHERE entry_id = evidence_entries.id) IS NULL
ORDER BY id LIMIT :limit
""").bindparams(bindparam("low", type_=BigInteger()), bindparam("limit", type_=BigInteger()))
_INSERT_LEAVES = text("""
INSERT INTO evidence_leaves (index, entry_id, hash)
SELECT :first + place - 1, entry_id, hash FROM unnest(:entries, :hashes) WITH ORDINALITY AS leaf (entry_id, hash, place)
""").bindparams(
    bindparam("first", type_=BigInteger()),
    bindparam("entries", type_=ARRAY(BigInteger)),
    bindparam("hashes", type_=ARRAY(LargeBinary)),
)
_INSERT_NODES = text("""
INSERT INTO evidence_nodes (level, index, hash) SELECT * FROM unnest(:levels, :indexes, :hashes)
""").bindparams(
    bindparam("levels", type_=ARRAY(SmallInteger)),
    bindparam("indexes", type_=ARRAY(BigInteger)),
    bindparam("hashes", type_=ARRAY(LargeBinary)),
)
_GROW = text("UPDATE evidence_log SET size = :size, peaks = :peaks WHERE id = 1").bindparams(
    bindparam("size", type_=BigInteger()), bindparam("peaks", type_=LargeBinary())
)
_MOVE_LOW = text(
    "UPDATE evidence_log SET low = :low, next_low = :next_low, next_xid = :next_xid WHERE id = 1"
).bindparams(*(bindparam(name, type_=BigInteger()) for name in ("low", "next_low", "next_xid")))
