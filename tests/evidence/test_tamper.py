"""Full rights on Postgres and storage: a verification finds every change that they make, one at a time.

`HOLDFAST_TAMPERINGS=10000` makes so many changes instead of 120.
"""

import asyncio
import json
import os
import random
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.errors import Rejected
from service.evidence.heads import fingerprint
from service.evidence.keys import PURPOSE
from service.evidence.tree import Tree, leaf_hash
from service.evidence.verify import verify
from service.postgres import evidence_log
from service.resources import Resources
from tests.support.evidence import codes, place_all, populate, verified
from tests.support.tampering import Intruder, kept

pytestmark = pytest.mark.long

TAMPERINGS = int(os.environ.get("HOLDFAST_TAMPERINGS", "120"))


async def test_every_change_is_found_and_nothing_where_there_is_none(
    res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await populate(res)
    async with res.engine.connect() as conn:
        await evidence_log.record(conn, "note", [{"number": number} for number in range(300)])
    await place_all(res, wants_head=True)
    assert (await verified(res)).findings == []
    intruder = Intruder(database, tmp_path / "objects", random.Random(TAMPERINGS))
    missed = []
    async with kept(database) as put_back:
        for _ in range(TAMPERINGS):
            done = await intruder.tamper()
            if not await is_found(res, with_objects=False):
                missed.append(done)
            await put_back(done)
        for _ in range(TAMPERINGS // 8):
            done, undo = await asyncio.to_thread(intruder.tamper_with_objects)
            if not await is_found(res, with_objects=True):
                missed.append(done)
            await asyncio.to_thread(undo)

    assert missed == []
    assert (await verified(res)).findings == []


async def is_found(res: Resources, *, with_objects: bool) -> bool:
    """Verify; a log that is gone is found, too."""
    try:
        return not (await verify(res, with_objects=with_objects, again=True)).is_good
    except Rejected:
        return True


async def test_a_cover_up_in_postgres_is_found_by_the_heads_in_storage(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Row, entry, leaf, frontier and head are made to fit each other, and the head is signed by the intruder's key."""
    email_id = (await populate(res, 2))[0]
    await database.execute("UPDATE attachments SET sha256 = repeat('a', 64) WHERE email_id = $1", email_id)
    entry = await database.fetchrow(
        "SELECT * FROM evidence_entries WHERE kind = 'stored' AND email_id = $1", email_id
    )
    facts = json.dumps({**json.loads(entry["facts"]), "sha256": "a" * 64})
    await database.execute("UPDATE evidence_entries SET facts = $1 WHERE id = $2", facts, entry["id"])
    await database.execute(
        "UPDATE evidence_leaves SET hash = $1 WHERE entry_id = $2",
        leaf_hash(entry["salt"], facts.encode()),
        entry["id"],
    )
    tree = Tree()
    tree.extend(
        [row["hash"] for row in await database.fetch("SELECT hash FROM evidence_leaves ORDER BY index")]
    )
    await database.execute("UPDATE evidence_log SET peaks = $1", b"".join(tree.peaks))
    assert {"root_differs", "object_changed"} == await codes(res)

    await forge_heads(database)
    assert {"head_key_unknown", "head_differs_in_storage", "object_changed"} == await codes(res)


async def forge_heads(database: asyncpg.Connection) -> None:
    """Sign all heads anew, with roots that fit the changed leaves."""
    key = Ed25519PrivateKey.generate()
    leaves = [row["hash"] for row in await database.fetch("SELECT hash FROM evidence_leaves ORDER BY index")]
    previous = None
    for head in await database.fetch("SELECT * FROM evidence_heads ORDER BY number"):
        tree = Tree()
        tree.extend(leaves[: head["size"]])
        public = key.public_key().public_bytes_raw()
        said = {
            **json.loads(head["body"]),
            "root": tree.root.hex(),
            "key": public.hex(),
            "previous": previous,
        }
        body = json.dumps(said, sort_keys=True)
        signature = key.sign(PURPOSE + body.encode())
        previous = fingerprint(body, signature)
        await database.execute(
            "UPDATE evidence_heads SET root = $1, body = $2, signature = $3, public_key = $4 WHERE number = $5",
            tree.root,
            body,
            signature,
            public,
            head["number"],
        )
