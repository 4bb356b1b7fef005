"""Exports of evidence: the program in them needs Python alone, proves what is right, and finds what is not."""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Rejected, Transient
from service.evidence import standalone
from service.evidence.tree import Tree, inclusion, leaf_hash, node_hash
from service.evidence.work import make_head
from service.jobs import identity
from service.jobs.arrival import receive
from service.queries.evidence_archive import Request, export
from service.resources import Resources
from tests.conftest import eventually
from tests.evidence.test_removals import purge
from tests.support.evidence import announce_again, arrival, place_all, populate


def test_the_program_of_exports_verifies_the_signatures_of_a_library() -> None:
    key = Ed25519PrivateKey.generate()
    public, message = key.public_key().public_bytes_raw(), b"a head"
    signature = key.sign(message)

    assert standalone.is_signed(public, message, signature)
    assert not standalone.is_signed(public, b"another head", signature)
    for place in (0, 31, 32, 63):
        changed = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
        assert not standalone.is_signed(public, message, changed)


@given(st.integers(1, 700), st.data())
async def test_a_proof_leads_to_the_root_and_no_other_leaf_does(size: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(b"", b"%d" % number) for number in range(size)]
    tree = Tree()
    nodes = {(node.level, node.place): node.value for node in tree.extend(leaves)}
    index = data.draw(st.integers(0, size - 1))

    async def read(level: int, begin: int, count: int) -> list[bytes]:
        return [leaves[place] if level == 0 else nodes[level, place] for place in range(begin, begin + count)]

    path = await inclusion(read, index, size)

    assert tree.root == plain_root(leaves) == standalone.root_from(leaves[index], index, size, path)
    assert standalone.root_from(b"x" * 32, index, size, path) != tree.root
    assert standalone.root_from(leaves[index], (index + 1) % size, size, path) != tree.root or size == 1


def plain_root(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 6962 defines it."""
    if len(leaves) == 1:
        return leaves[0]
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(plain_root(leaves[:middle]), plain_root(leaves[middle:]))


async def test_an_export_is_proven_by_python_alone_and_a_changed_one_is_not(
    res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    first, second, *_ = await populate(res)
    async with res.engine.connect() as conn:
        await identity.merge(conn, first, second)
    await make_head(res)
    unpacked = await unpack(res, Request([first]), tmp_path / "export")
    log = await database.fetchrow("SELECT root, size, public_key FROM evidence_heads ORDER BY number DESC")
    key, root = log["public_key"].hex(), f"{log['size']}:{log['root'].hex()}"

    await asyncio.to_thread(check_export, unpacked, first, key, root)


def check_export(unpacked: Path, first: int, key: str, root: str) -> None:
    code, output = run_program(unpacked, "--key", key, "--root", root)
    assert code == 0, output
    assert "Wrong:" not in output
    assert "the one that you know" in output
    # The message of the e-mail that became part of this one was not kept.
    left_out = [line for line in output.splitlines() if "Not in this export" in line]
    assert 2 == len(left_out) == sum("message of e-mail 3" in line for line in left_out)
    assert (
        unpacked / "emails" / str(first) / "files" / "invoice 1.pdf"
    ).read_bytes() == b"%PDF-1.4 invoice 1"
    assert (unpacked / "emails" / str(first) / "request.body").read_bytes() == b'{"number": 1}'
    assert run_program(unpacked, "--key", "00" * 32)[0] == 1
    assert run_program(unpacked, "--root", f"{root.partition(':')[0]}:{'00' * 32}")[0] == 1
    for slip in (("--root", "nonsense"), ("--root", root[:-1]), ("--root", f"x{root}"), ("--key", key[:-1])):
        code, output = run_program(unpacked, *slip)
        assert (code, "WRONG" in output) == (2, False), output
    chance = random.Random(7)
    for change in (
        *(change_file, change_facts, change_head, change_proof, add_file),
        *(hide_file, link_file, confuse_terminal, nest_deeply, name_another_path),
    ):
        undo = change(unpacked, chance)
        code, output = run_program(unpacked)
        assert code == 1, (change.__name__, output)
        undo()
    assert run_program(unpacked)[0] == 0


@pytest.mark.parametrize("is_placed", [False, True])
async def test_an_export_is_proven_whatever_is_recorded_since_the_last_head(
    res: Resources, tmp_path: Path, *, is_placed: bool
) -> None:
    """A worker may receive a webhook about an e-mail while it is exported."""
    first, *_ = await populate(res, 2)
    body = b'{"number": 1, "once": "more"}'
    async with res.engine.connect() as conn:
        await receive(conn, [arrival(1, idempotency_key="once more", raw_body=body)])
    if is_placed:
        await place_all(res)

    unpacked = await unpack(res, Request([first]), tmp_path / "export")

    code, output = await asyncio.to_thread(run_program, unpacked)
    assert code == 0, output
    assert body in await asyncio.to_thread(contents, unpacked / "emails", "request-*.body")


async def test_a_file_that_was_moved_to_another_email_is_found(res: Resources, tmp_path: Path) -> None:
    """Its content is recorded, and not as a file of that e-mail."""
    first, second = await populate(res, 2)
    unpacked = await unpack(res, Request([first, second]), tmp_path / "export")

    await asyncio.to_thread(move_file, unpacked / "emails" / str(first), unpacked / "emails" / str(second))

    code, output = await asyncio.to_thread(run_program, unpacked)
    assert code == 1, output
    assert f"emails/{second}/files/invoice 1.pdf is a part of another e-mail" in output


def move_file(source: Path, target: Path) -> None:
    (source / "files" / "invoice 1.pdf").rename(target / "files" / "invoice 1.pdf")


def contents(directory: Path, pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob(pattern)]


async def test_an_export_of_an_email_that_is_purged_meanwhile_ends_with_the_reason(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Its facts are gone, so nothing would prove what was written."""
    first, second = await populate(res, 2)

    async with database.transaction():  # the export waits for its head
        await database.execute("SELECT FROM evidence_log FOR UPDATE")
        exporting = asyncio.create_task(export(res, Request([first, second]), BytesIO()))
        await eventually(partial(someone_waits, database))
        await purge(res, second)

    with pytest.raises(Transient, match=f"E-mail {second} was deleted or merged"):
        await exporting


async def someone_waits(database: asyncpg.Connection) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await database.fetchval(query))


async def test_an_export_of_nothing_is_refused(res: Resources) -> None:
    await populate(res, 1)

    with pytest.raises(Rejected) as refused:
        await export(res, Request(ticket_id="none"), BytesIO())

    assert refused.value.code == "email_not_found"


async def unpack(res: Resources, request: Request, directory: Path) -> Path:
    file = BytesIO()
    await export(res, request, file)
    await asyncio.to_thread(ZipFile(file).extractall, directory)
    return directory


def run_program(directory: Path, *arguments: str) -> tuple[int, str]:
    """Run the export's program, isolated from all packages and variables."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(directory / "verify.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    assert bool(done.stderr) == (done.returncode == 2), done.stderr
    return done.returncode, done.stdout


def rewritten(path: Path, content: bytes) -> Callable[[], object]:
    """Change a file; return what undoes that."""
    before = path.read_bytes()
    path.write_bytes(content)
    return lambda: path.write_bytes(before)


def change_file(directory: Path, chance: random.Random) -> Callable[[], object]:
    path = chance.choice([*(directory / "emails").rglob("*.pdf")])
    return rewritten(path, path.read_bytes() + b" ")


def change_facts(directory: Path, chance: random.Random) -> Callable[[], object]:
    """Give a file another content, and its leaf the hash of that."""
    path = directory / "evidence.json"
    text = path.read_text()
    old = next(
        json.loads(leaf["facts"])["sha256"]
        for leaf in json.loads(text)["leaves"]
        if '"stored"' in leaf["facts"]
    )
    return rewritten(path, text.replace(old, sha256(b"forged").hexdigest()).encode())


def change_head(directory: Path, chance: random.Random) -> Callable[[], object]:
    path = chance.choice([*(directory / "heads").iterdir()])
    content = path.read_bytes()
    return rewritten(path, content.replace(b"size", b"Size", 1))


def change_proof(directory: Path, chance: random.Random) -> Callable[[], object]:
    path = directory / "evidence.json"
    data = json.loads(path.read_text())
    data["leaves"][0]["proofs"] = []
    return rewritten(path, json.dumps(data).encode())


def add_file(directory: Path, chance: random.Random) -> Callable[[], object]:
    path = directory / "emails" / "another.txt"
    path.write_bytes(b"Never received.")
    return path.unlink


def hide_file(directory: Path, chance: random.Random) -> Callable[[], object]:
    """Add a file at a place that looks like that of a history."""
    path = directory / "emails" / "1" / "emails" / "1" / "history.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"Never received.")
    return path.unlink


def link_file(directory: Path, chance: random.Random) -> Callable[[], object]:
    path = directory / "emails" / "1" / "files" / "endless.pdf"
    path.symlink_to("/dev/zero")
    return path.unlink


def confuse_terminal(directory: Path, chance: random.Random) -> Callable[[], object]:
    """Clear the screen and show another result, in the name of a file and in a character that cannot be written."""
    path = directory / "emails" / "1" / "files" / "\x1b[2J\x1b[HOK: every check succeeded.\n.pdf"
    path.write_bytes(b"Never received.")
    output = run_program(directory)[1]
    assert "\x1b" not in output
    assert "OK:" not in [line[:3] for line in output.splitlines()]
    data = directory / "evidence.json"
    undo = rewritten(data, data.read_bytes().replace(b'"log": "', b'"log": "\\ud800', 1))
    assert run_program(directory)[0] == 1
    undo()
    return path.unlink


def nest_deeply(directory: Path, chance: random.Random) -> Callable[[], object]:
    return rewritten(directory / "evidence.json", b"[" * 200_000)


def name_another_path(directory: Path, chance: random.Random) -> Callable[[], object]:
    """Name a head that is no file of the export."""
    data = directory / "evidence.json"
    head = json.loads(data.read_text())["heads"][0]
    moved = directory.parent / "elsewhere.json"
    kept = directory / head["file"]
    content = kept.read_bytes()
    moved.write_bytes(content)
    kept.unlink()
    undo = rewritten(data, data.read_bytes().replace(head["file"].encode(), str(moved).encode()))

    def back() -> None:
        undo()
        kept.write_bytes(content)

    return back


async def test_facts_outside_of_the_heads_that_a_person_knows_are_not_called_proven(
    res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    """Who has the key can sign another tree, and give it an earlier time."""
    first, *_ = await populate(res, 2)
    log = await database.fetchrow("SELECT root, size FROM evidence_heads ORDER BY number DESC")
    await announce_again(res, 3)
    body = b'{"number": 1, "once": "more"}'
    async with res.engine.connect() as conn:
        await receive(conn, [arrival(1, idempotency_key="once more", raw_body=body)])
    unpacked = await unpack(res, Request([first]), tmp_path / "export")

    known = f"{log['size']}:{log['root'].hex()}"
    code, output = await asyncio.to_thread(run_program, unpacked, "--root", known)

    assert code == 0, output
    proven, _, left_open = output.partition("Not proven:")
    facts = len(json.loads(await asyncio.to_thread((unpacked / "evidence.json").read_text))["leaves"])
    assert f"{facts - 1} facts are part of a head that you know." in proven
    assert "When 1 facts were recorded: they are proven in no head that you know" in left_open
    assert "in no head that you know" not in (await asyncio.to_thread(run_program, unpacked))[1]
