"""An object is in storage whole, once and for good, or not at all."""

import asyncio
import io
import os
import random
import socket
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import puremagic
import pytest
from puremagic.main import magic_header_array

from service.errors import Permanent, Transient
from service.storage import objects as storage
from service.storage.filetype import detect
from service.storage.objects import Storage, open_storage

SMALL = b"%PDF-1.4 small"
LARGE = random.Random(1).randbytes(3 * 1024**2 + 17)
LARGEST = LARGE * 3
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def store(root: Path) -> Storage:
    return open_storage(root.as_uri())


@pytest.mark.parametrize(
    "content", [b"", SMALL, bytes(1024**2 - 1), bytes(1024**2), bytes(1024**2 + 1), LARGE, LARGEST]
)
async def test_what_was_put_comes_out_again(store: Storage, content: bytes) -> None:
    digest = sha256(content).hexdigest()

    stored = await storage.put(store, _chunks(content), "a.bin")
    opened = await storage.open(store, stored.key)

    assert (stored.sha256, stored.size) == (digest, len(content))
    assert stored.key == f"sha256/{digest[:2]}/{digest[2:]}"
    assert await storage.stat(store, stored.key) == opened.size == len(content)
    assert b"".join([chunk async for chunk in opened.chunks]) == content


@pytest.mark.parametrize("content", [SMALL, LARGE])
async def test_on_disk_there_is_the_object_and_nothing_else(
    store: Storage, root: Path, content: bytes
) -> None:
    stored = await storage.put(store, _chunks(content), None)

    assert await asyncio.to_thread(_files, root) == [stored.key]


@pytest.mark.parametrize("content", [SMALL, LARGE])
async def test_the_same_content_is_kept_once_and_not_written_again(
    store: Storage, root: Path, content: bytes
) -> None:
    first = await storage.put(store, _chunks(content), "a.pdf")
    before = await asyncio.to_thread((root / first.key).stat)

    second = await storage.put(store, _chunks(content), "a.pdf")

    after = await asyncio.to_thread((root / first.key).stat)
    assert second == first
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_many_may_put_the_same_content_at_once(store: Storage, root: Path) -> None:
    stored = await asyncio.gather(*(storage.put(store, _chunks(LARGE), None) for _ in range(20)))

    assert len(set(stored)) == 1
    assert await asyncio.to_thread(_files, root) == [stored[0].key]
    assert await asyncio.to_thread((root / stored[0].key).read_bytes) == LARGE


async def test_an_object_that_lost_bytes_is_put_again(store: Storage, root: Path) -> None:
    stored = await storage.put(store, _chunks(LARGE), None)
    await asyncio.to_thread((root / stored.key).write_bytes, b"torn")

    await storage.put(store, _chunks(LARGE), None)

    assert await asyncio.to_thread((root / stored.key).read_bytes) == LARGE


@pytest.mark.parametrize("content", [SMALL, LARGE])
async def test_a_stream_that_breaks_leaves_nothing(store: Storage, root: Path, content: bytes) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in _chunks(content):
            yield chunk
        raise Transient("connection_lost", "the file broke off")

    with pytest.raises(Transient, match="broke off"):
        await storage.put(store, broken(), None)

    assert await asyncio.to_thread(_files, root) == []


@pytest.mark.parametrize("after", range(0, 40, 3))
async def test_a_cancelled_put_leaves_the_whole_object_or_nothing(
    store: Storage, root: Path, after: int
) -> None:
    task = asyncio.create_task(storage.put(store, _chunks(LARGE), None))
    for _ in range(after):
        await asyncio.sleep(0.0005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    files = await asyncio.to_thread(_files, root)
    assert [await asyncio.to_thread((root / name).read_bytes) for name in files] in ([], [LARGE])


async def test_twenty_large_puts_stay_small_in_memory(root: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TWENTY_PUTS, root.as_uri()), cwd=ROOT, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()

    stored, max_rss_mib = map(int, output.split())
    assert stored == 20
    assert max_rss_mib < 256


@pytest.mark.parametrize(
    "key",
    [
        f"sha256/ab/{'0' * 62}",
        "",
        "sha256",
        "../../etc/passwd",
        "/etc/passwd",
        f"sha256/ab/{'0' * 62}\n",
        "\0",
    ],
)
async def test_what_is_not_there_is_missing(store: Storage, key: str) -> None:
    await storage.put(store, _chunks(SMALL), None)

    for look in (storage.stat, storage.open):
        with pytest.raises(Permanent) as missing:
            await look(store, key)
        assert missing.value.code == "object_missing"


async def test_an_object_that_goes_while_it_is_read_is_missing(store: Storage, root: Path) -> None:
    stored = await storage.put(store, _chunks(LARGEST), None)
    opened = await storage.open(store, stored.key)
    await anext(opened.chunks)
    await asyncio.to_thread((root / stored.key).unlink)

    with pytest.raises(Permanent) as missing:
        await anext(opened.chunks)
    assert missing.value.code == "object_missing"


async def test_an_object_that_shrinks_while_it_is_read_is_no_whole_object(store: Storage, root: Path) -> None:
    stored = await storage.put(store, _chunks(LARGEST), None)
    opened = await storage.open(store, stored.key)
    await asyncio.to_thread(os.truncate, root / stored.key, 10)

    with pytest.raises(Transient):
        await anext(opened.chunks)


async def test_the_check_of_a_disk_leaves_nothing(store: Storage, root: Path) -> None:
    await storage.check(store)
    assert await storage.probe(store)

    assert await asyncio.to_thread(_files, root) == []


async def test_a_bucket_out_of_reach_may_be_better_later(
    monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    bucket = open_storage("s3://bucket/prefix")

    for attempt in (storage.put(bucket, _chunks(LARGE), None), storage.check(bucket)):
        with pytest.raises(Transient) as failed:
            await attempt
        assert failed.value.code == "storage_unavailable"
        assert "hidden" not in failed.value.message
        assert "\n" not in failed.value.message


def _zip(**files: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


OLE = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600)
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@pytest.mark.parametrize(
    ("content", "file_name", "kind"),
    [
        (SMALL, "invoice.pdf", "application/pdf"),
        (SMALL, None, "application/pdf"),
        (SMALL, "invoice.zip", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "\0/../../x.pdf", "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(50), "x" * 10_000 + ".jpg", "image/jpeg"),
        (_zip(**{"a.txt": "hello"}), None, "application/zip"),
        (_zip(**{"a.txt": "hello"}), "a.docx", "application/zip"),
        (_zip(**{"a.bin": "x" * 3 * 1024**2}), "a.zip", "application/zip"),
        (_zip(**{"[Content_Types].xml": "x", "word/document.xml": "x"}), None, DOCX),
        (_zip(**{"pad": "x" * 3 * 1024**2, "[Content_Types].xml": "x", "xl/workbook.xml": "x"}), None, XLSX),
        (
            _zip(mimetype="application/vnd.oasis.opendocument.text", x="y"),
            None,
            "application/vnd.oasis.opendocument.text",
        ),
        (_zip(mimetype="x"), None, "application/zip"),
        (b"PK\x03\x04", "a.docx", "application/zip"),
        (OLE, None, "application/x-ole-storage"),
        (OLE, "a.doc", "application/msword"),
        (b"hello world", "a.txt", None),
        (b"BMW is a car", "a.txt", None),
        (b"", "a.pdf", None),
        (b"\0", "pyproject.toml", None),
    ],
)
async def test_the_bytes_tell_the_type(
    store: Storage, content: bytes, file_name: str | None, kind: str | None
) -> None:
    stored = await storage.put(store, _chunks(content), file_name)

    assert stored.detected_type == kind


def test_a_signature_is_found_wherever_puremagic_finds_it() -> None:
    wrong = []
    for row in magic_header_array[::7]:
        content = bytes(row.offset) + row.byte_match + bytes(40_000)
        for name in ("", f"a{row.extension}", "a.pdf"):
            told = puremagic.magic_string(content, f"/dev/null/{name}" if name else None)
            told = [each for each in told if each.mime_type and (each.confidence == 0.9 or len(each[0]) > 2)]
            kind = detect(content, content[-64:], name)
            known = content.startswith((b"PK", bytes.fromhex("d0cf11e0a1b11ae1")))
            if not known and kind != (told[0].mime_type if told else None):
                wrong.append((row, name, kind))

    assert wrong == []


async def test_no_bytes_upset_the_detection(store: Storage) -> None:
    chance = random.Random(2)
    beginnings = (b"", b"PK\x03\x04", b"PK\x05\x06", OLE[:8], b"%PDF", b"RIFF", b"<?xml", b"ID3")
    names = (None, "", ".", "a.tar.gz", "/etc/passwd", "a.\ud800", "a\n.pdf", "x" * 10_000 + ".zip")

    for _ in range(300):
        content = chance.choice(beginnings) + chance.randbytes(chance.randrange(200))
        stored = await storage.put(store, _chunks(content), chance.choice(names))
        assert stored.size == len(content)


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 64 * 1024):
        await asyncio.sleep(0)
        yield content[start : start + 64 * 1024]


def _files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


TWENTY_PUTS = """
import asyncio, re, sys
from service.storage.objects import open_storage, put

async def chunks(seed):
    for number in range(800):
        await asyncio.sleep(0)
        yield (b"%8d%8d" % (seed, number)) * 4096

async def main():
    store = open_storage(sys.argv[1])
    stored = await asyncio.gather(*(put(store, chunks(seed), "a.bin") for seed in range(20)))
    assert {each.size for each in stored} == {50 * 1024**2}
    peak = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())  # ru_maxrss may be the parent's
    print(len({each.key for each in stored}), int(peak[1]) // 1024)

asyncio.run(main())
"""
