"""An object is stored whole and durably, or not at all: on a disk and in a bucket."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from service.errors import Permanent, Transient
from service.storage import objects as storage
from service.storage.objects import Listed, Storage, open_storage
from tests.support.places import LARGE, LARGEST, SMALL, Directory, InBucket, Place, chunks, key, listed, read
from tests.support.s3 import Bucket

PART = 5 * 1024**2
MEMORY = 1024**2
ABSENT = f"sha256/ab/{'0' * 62}"


def _length(value: object) -> str | None:
    """Name a content by its length."""
    return f"{len(value)}-bytes" if isinstance(value, bytes) else None


contents = pytest.mark.parametrize("content", [SMALL, LARGE, LARGEST], ids=_length)


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        return Directory(tmp_path / "objects")
    bucket: Bucket = request.getfixturevalue("bucket")
    return InBucket(bucket)


@pytest.fixture
def store(place: Place) -> Storage:
    return open_storage(place.url)


# ── putting


@pytest.mark.parametrize(
    "content",
    [
        b"",
        SMALL,
        *(LARGEST[: MEMORY + more] for more in (-1, 0, 1)),
        LARGE,
        *(LARGEST[: PART + more] for more in (0, 1)),
        LARGEST,
    ],
    ids=_length,
)
async def test_an_object_is_read_as_it_was_put_and_nothing_else_is_left(
    store: Storage, place: Place, content: bytes
) -> None:
    stored = await storage.put(store, chunks(content), "a.bin")
    opened = await storage.open(store, stored.key)

    assert (stored.sha256, stored.size) == (sha256(content).hexdigest(), len(content))
    assert stored.key == f"sha256/{stored.sha256[:2]}/{stored.sha256[2:]}"
    assert await storage.stat(store, stored.key) == opened.size == len(content)
    assert b"".join([chunk async for chunk in opened.chunks]) == content
    assert await place.objects() == {stored.key: content}


@contents
async def test_equal_content_is_stored_and_written_once(store: Storage, place: Place, content: bytes) -> None:
    first = await storage.put(store, chunks(content), "a.pdf")
    before = await place.writes()

    second = await storage.put(store, chunks(content), "a.pdf")

    assert second == first
    assert await place.writes() == before


async def test_simultaneous_puts_of_equal_and_different_content_succeed(store: Storage, place: Place) -> None:
    each = [SMALL, LARGE, LARGEST, *(LARGE[number:] for number in range(1, 6))]

    stored = await asyncio.gather(*(storage.put(store, chunks(content), None) for content in each * 2))

    assert stored[: len(each)] == stored[len(each) :]
    assert await place.objects() == {key(content): content for content in each}


@contents
async def test_an_object_that_lost_bytes_is_put_again(store: Storage, place: Place, content: bytes) -> None:
    await storage.put(store, chunks(content), None)
    await place.place(key(content), b"torn")

    await storage.put(store, chunks(content), None)

    assert await place.objects() == {key(content): content}


@contents
async def test_a_stream_that_breaks_leaves_nothing(store: Storage, place: Place, content: bytes) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in chunks(content):
            yield chunk
        raise Transient("connection_lost", "the file broke off")

    with pytest.raises(Transient, match="broke off"):
        await storage.put(store, broken(), None)

    assert await place.objects() == {}


@pytest.mark.parametrize("after", range(0, 40, 3))
async def test_a_cancelled_put_leaves_the_whole_object_or_nothing(
    store: Storage, place: Place, after: int
) -> None:
    task = asyncio.create_task(storage.put(store, chunks(LARGE), None))
    for _ in range(after):
        await asyncio.sleep(0.0005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert await place.objects() in ({}, {key(LARGE): LARGE})


# ── reading


@pytest.mark.parametrize(
    "name", [ABSENT, "", "sha256", "../../etc/passwd", "/etc/passwd", f"{ABSENT}\n", "\0", ".spool/x"]
)
async def test_an_absent_object_is_missing(store: Storage, name: str) -> None:
    await storage.put(store, chunks(SMALL), None)

    for look in (storage.stat, storage.open, storage.digest):
        with pytest.raises(Permanent) as missing:
            await look(store, name)
        assert missing.value.code == "object_missing"


async def test_an_object_that_is_removed_during_a_read_is_missing(store: Storage, place: Place) -> None:
    await storage.put(store, chunks(LARGEST), None)
    opened = await storage.open(store, key(LARGEST))
    await anext(opened.chunks)
    await place.remove(key(LARGEST))

    with pytest.raises(Permanent) as missing:
        await anext(opened.chunks)
    assert missing.value.code == "object_missing"


@pytest.mark.parametrize("left", [10, len(LARGE) - 1])
async def test_an_object_that_shrinks_during_a_read_is_an_error(
    store: Storage, place: Place, left: int
) -> None:
    await storage.put(store, chunks(LARGE), None)
    opened = await storage.open(store, key(LARGE))
    await place.place(key(LARGE), LARGE[:left])

    with pytest.raises(Transient):
        _ = [chunk async for chunk in opened.chunks]


@pytest.mark.parametrize("content", [b"", SMALL, LARGEST], ids=_length)
async def test_the_digest_is_computed_from_the_stored_bytes(
    store: Storage, place: Place, content: bytes
) -> None:
    await storage.put(store, chunks(content), None)
    whole = await storage.digest(store, key(content))
    await place.place(key(content), b"other" + content)

    assert whole == (sha256(content).hexdigest(), len(content))
    assert await storage.digest(store, key(content)) == (
        sha256(b"other" + content).hexdigest(),
        len(content) + 5,
    )


# ── listing and removing


async def test_a_listing_has_each_object_with_size_and_time_and_nothing_else(
    store: Storage, place: Place
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    each = [SMALL, LARGE, *(b"%d" % number for number in range(40))]
    await asyncio.gather(*(storage.put(store, chunks(content), None) for content in each))
    await storage.check(store)
    for strange in ("sha256/README", "sha256/ab/README", f"sha256/AB/{'0' * 62}", "other", f"x/{ABSENT}"):
        await place.place(strange, b"strange")

    found = await listed(store)

    assert {one.key: one.size for one in found} == {key(content): len(content) for content in each}
    assert len(found) == len(each)
    assert all(before <= one.modified <= datetime.now(UTC) for one in found)


async def test_the_256_ranges_cover_all_objects(store: Storage) -> None:
    each = [b"%d" % number for number in range(30)]
    await asyncio.gather(*(storage.put(store, chunks(content), None) for content in each))

    ranges = [await listed(store, f"sha256/{number:02x}/") for number in range(256)]

    everything = {one.key: one for one in await listed(store)}
    assert {one.key: one for part in ranges for one in part} == everything
    assert sum(map(len, ranges)) == len(everything) == len(each)
    for number, part in enumerate(ranges):
        assert all(one.key.startswith(f"sha256/{number:02x}/") for one in part)


async def test_few_objects_are_listed_at_once_and_many_by_ranges(tmp_path: Path) -> None:
    disk = Directory(tmp_path / "objects")
    store = open_storage(disk.url)
    await asyncio.gather(*(disk.place(key(str(number).encode()), b"") for number in range(1000)))
    few = await storage.ranges(store)
    await disk.place(ABSENT, b"")
    many = await storage.ranges(store)

    assert len(few) == 1
    assert len([each async for each in storage.listing(store, few[0])]) == 1001
    assert len(many) == 256
    assert sum([len(await listed(store, prefix)) for prefix in many]) == 1001


async def test_a_listing_is_read_page_by_page_while_objects_come_and_go(store: Storage, place: Place) -> None:
    each = [b"%d" % number for number in range(30)]
    await asyncio.gather(*(storage.put(store, chunks(content), None) for content in each))
    seen: list[Listed] = []

    async for one in storage.listing(store, "sha256/"):
        seen.append(one)
        await storage.remove(store, one.key)

    assert {one.key for one in seen} == set(map(key, each))
    assert await place.objects() == {}
    assert await listed(store) == []


@pytest.mark.parametrize("prefix", ["", "sha256", "sha256/a", "sha256/AB/", "sha256/ab", "/", "../"])
async def test_only_ranges_are_listed(store: Storage, prefix: str) -> None:
    with pytest.raises(ValueError, match="no range"):
        await listed(store, prefix)


async def test_a_removed_object_is_missing_and_a_second_removal_is_no_error(
    store: Storage, place: Place
) -> None:
    for content in (SMALL, LARGE):
        await storage.put(store, chunks(content), None)

    for _ in range(2):
        await storage.remove(store, key(SMALL))

    assert await place.objects() == {key(LARGE): LARGE}
    with pytest.raises(Permanent, match="not in storage"):
        await storage.stat(store, key(SMALL))
    await storage.put(store, chunks(SMALL), None)
    assert await read(store, key(SMALL)) == SMALL


@pytest.mark.parametrize("name", ["", "holdfast-check", "../other", f"{ABSENT}/.."])
async def test_nothing_but_an_object_is_removed_or_signed(store: Storage, place: Place, name: str) -> None:
    await storage.check(store)
    before = await place.objects()

    with pytest.raises(Permanent, match="no object can have the key"):
        await storage.remove(store, name)
    with pytest.raises(Permanent, match="no object can have the key"):
        await storage.sign(store, name, method="GET", expires=timedelta(seconds=60))

    assert await place.objects() == before


# ── looking whether it works


async def test_repeated_checks_and_probes_leave_at_most_one_object(store: Storage, place: Place) -> None:
    await storage.check(store)
    before = await place.objects()
    for _ in range(2):
        await storage.check(store)
        assert await storage.probe(store)

    assert await place.objects() == before
    assert sum(map(len, before.values())) < 10
