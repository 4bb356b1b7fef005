"""A spool keeps the bytes of a stream, however they arrive."""

import tracemalloc
from collections.abc import Iterator
from hashlib import sha256
from itertools import cycle
from pathlib import Path

import pytest

from service.storage.spool import Spool

KIB, MIB = 1024, 1024**2
CONTENT = b"%PDF-1.4 " + bytes(range(256)) * (10 * KIB) + b"%%EOF"
SIZES = {
    "at-once": [len(CONTENT)],
    "small-and-large": [1, 70 * KIB, 3, 5000, 64 * KIB],
    "around-a-piece": [16 * KIB - 1, 16 * KIB, 16 * KIB + 1],
    "around-the-memory": [MIB - 1, 1, MIB, MIB + 1],
    "tiny": [500],
}


def cut(content: bytes, sizes: list[int]) -> Iterator[bytes]:
    place = 0
    for size in cycle(sizes):
        if place >= len(content):
            return
        yield content[place : place + size]
        place += size


@pytest.mark.parametrize("name", SIZES)
def test_the_bytes_hash_and_type_are_the_same_however_the_bytes_arrive(name: str, tmp_path: Path) -> None:
    spool = Spool(lambda: (tmp_path / "spool").open("xb"), "a.pdf")
    for chunk in cut(CONTENT, SIZES[name]):
        if spool.add(chunk):
            spool.flush()
    spool.seal()
    spool.finish()
    stored = (tmp_path / "spool").read_bytes()
    spool.close()

    assert stored == CONTENT
    assert (spool.size, spool.sha256) == (len(CONTENT), sha256(CONTENT).hexdigest())
    assert spool.detected_type == "application/pdf"


def test_many_small_chunks_take_little_more_memory_than_their_bytes(tmp_path: Path) -> None:
    """A server chooses the size of its chunks, and a chunk of its own takes 40 bytes more."""
    spool = Spool(lambda: (tmp_path / "spool").open("xb"), None)
    tracemalloc.start()
    for number in range(50_000):
        spool.add(number.to_bytes(3, "big"))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert spool.content() == b"".join(number.to_bytes(3, "big") for number in range(50_000))
    assert most < 3 * 150_000
