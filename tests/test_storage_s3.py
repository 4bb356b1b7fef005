"""A bucket keeps what was put, whatever S3 and the way to it do meanwhile."""

import asyncio
import math
import random
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import count

import pytest

from service.config.settings import Settings
from service.errors import Permanent, Transient
from service.local.zendesk import Zendesk
from service.resources import Resources
from service.storage import objects as storage
from service.storage.cloud import Cloud
from tests.conftest import API_TOKEN, ROOT, serving, working
from tests.s3 import (
    PRIVATE,
    Answer,
    Bucket,
    Fault,
    breaks_off,
    damages,
    freezes,
    lies,
    misnames,
    proxied,
    refuses,
    resets,
    s3,
)

SMALL = b"%PDF-1.4 small"
LARGE = random.Random(1).randbytes(3 * 1024**2 + 17)  # on disk first, and put at once
LARGEST = random.Random(2).randbytes(11 * 1024**2 + 17)  # put in three parts
SECRET = "hidden-from-everybody"
NUMBERS = count()


def _name(value: object) -> str:
    """Name a parameter of a test."""
    return f"{len(value)}-bytes" if isinstance(value, bytes) else str(value)


SLOW_DOWN = refuses(503, "SlowDown")
BROKEN = refuses(500, "InternalError")
SORRY = refuses(200, "InternalError")  # what S3 can only say after it began to answer

PASSING = [
    (SMALL, Fault(SLOW_DOWN, times=3)),
    (LARGEST, Fault(SLOW_DOWN, times=3)),
    (LARGEST, Fault(BROKEN, ("part",), skip=1, times=3)),
    (SMALL, Fault(resets, ("put",))),
    (LARGEST, Fault(resets, ("part",), skip=1)),
    (SMALL, Fault(breaks_off, ("put",))),
    (LARGEST, Fault(breaks_off, ("part",))),
    (LARGEST, Fault(SORRY, ("complete",))),
    (SMALL, Fault(misnames, ("put",))),
]
LASTING = [
    (SMALL, Fault(SLOW_DOWN)),
    (SMALL, Fault(SLOW_DOWN, ("put",))),
    (LARGEST, Fault(SLOW_DOWN, ("initiate",))),
    (SMALL, Fault(SLOW_DOWN, ("head",), skip=1)),
    (SMALL, Fault(refuses(403, "AccessDenied"))),
    (LARGEST, Fault(BROKEN, ("part",), skip=1)),
    (LARGEST, Fault(BROKEN, ("part",), skip=2)),
    (LARGEST, Fault(refuses(404, "NoSuchUpload"), ("part",), skip=1)),
    (SMALL, Fault(resets, ("put",))),
    (LARGEST, Fault(resets, ("part",), skip=1)),
    (LARGEST, Fault(SORRY, ("complete",))),
    (LARGEST, Fault(breaks_off, ("complete",))),
    (LARGEST, Fault(misnames, ("part",), skip=1)),
    (SMALL, Fault(damages, ("put",))),
    (LARGEST, Fault(damages, ("part",), skip=1)),
    (LARGEST, Fault(lies, ("part",), skip=1)),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
async def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    async with proxied(server, f"bucket-{next(NUMBERS)}") as bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield bucket


@pytest.fixture
def store(bucket: Bucket) -> Cloud:
    return Cloud.open(f"s3://{bucket.name}/prefix")


@pytest.mark.parametrize(
    "content", [b"", SMALL, LARGE, LARGEST[: 5 * 1024**2], LARGEST[: 5 * 1024**2 + 1], LARGEST], ids=_name
)
async def test_what_was_put_comes_out_again(bucket: Bucket, store: Cloud, content: bytes) -> None:
    stored = await storage.put(store, _chunks(content), None)

    assert (stored.sha256, stored.size) == (sha256(content).hexdigest(), len(content))
    assert await storage.stat(store, stored.key) == len(content)
    assert await _read(store, stored.key) == content
    assert await bucket.objects() == {f"prefix/{stored.key}": content}


@pytest.mark.parametrize("content", [SMALL, LARGEST], ids=_name)
async def test_the_same_content_is_kept_once_and_not_sent_again(
    bucket: Bucket, store: Cloud, content: bytes
) -> None:
    first = await storage.put(store, _chunks(content), None)
    bucket.requests.clear()

    assert await storage.put(store, _chunks(content), None) == first
    assert bucket.requests == ["head"]


async def test_many_may_put_the_same_and_other_content_at_once(bucket: Bucket, store: Cloud) -> None:
    contents = [SMALL, LARGE, LARGEST, *(LARGE[number:] for number in range(1, 6))]

    stored = await asyncio.gather(*(storage.put(store, _chunks(c), None) for c in contents * 2))

    assert stored[: len(contents)] == stored[len(contents) :]
    assert set((await bucket.objects()).values()) == set(contents)
    assert len(await bucket.objects()) == len(contents)
    assert await bucket.unfinished() == []


async def test_an_object_that_lost_bytes_is_put_again(bucket: Bucket, store: Cloud) -> None:
    await bucket.place(f"prefix/{_key(SMALL)}", b"torn")

    await storage.put(store, _chunks(SMALL), None)

    assert await bucket.objects() == {f"prefix/{_key(SMALL)}": SMALL}


async def test_a_stream_that_breaks_sends_nothing(bucket: Bucket, store: Cloud) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in _chunks(LARGEST):
            yield chunk
        raise Transient("connection_lost", "the file broke off")

    with pytest.raises(Transient, match="broke off"):
        await storage.put(store, broken(), None)
    assert bucket.requests == []


@pytest.mark.parametrize(("content", "fault"), PASSING, ids=_name)
async def test_a_passing_fault_is_outlived(
    bucket: Bucket, store: Cloud, content: bytes, fault: Fault
) -> None:
    bucket.faults.append(replace(fault))

    stored = await storage.put(store, _chunks(content), None)

    assert await bucket.objects() == {f"prefix/{stored.key}": content}
    assert await bucket.unfinished() == []


@pytest.mark.parametrize(("content", "fault"), LASTING, ids=_name)
async def test_a_lasting_fault_leaves_the_whole_object_or_nothing_and_the_next_put_heals_it(
    bucket: Bucket, store: Cloud, content: bytes, fault: Fault
) -> None:
    whole = {f"prefix/{_key(content)}": content}
    bucket.faults.append(replace(fault, times=math.inf))

    with pytest.raises(Transient) as failed:
        await storage.put(store, _chunks(content), None)
    _assert_tells_no_secrets(failed.value)
    assert await bucket.objects() in ({}, whole)
    assert await bucket.unfinished() == []

    bucket.faults.clear()
    await storage.put(store, _chunks(content), None)
    assert await bucket.objects() == whole


@pytest.mark.parametrize(("content", "kind"), [(SMALL, "put"), (LARGEST, "complete")], ids=_name)
async def test_what_was_only_said_to_be_stored_is_not_stored(
    bucket: Bucket, store: Cloud, content: bytes, kind: str
) -> None:
    bucket.faults.append(Fault(lies, (kind,)))

    with pytest.raises(Transient):
        await storage.put(store, _chunks(content), None)

    await storage.put(store, _chunks(content), None)
    assert await bucket.objects() == {f"prefix/{_key(content)}": content}


async def test_who_may_only_write_can_put(bucket: Bucket, store: Cloud) -> None:
    bucket.faults.append(Fault(refuses(403, "AccessDenied"), ("head", "get"), times=math.inf))

    await storage.put(store, _chunks(SMALL), None)

    assert await bucket.objects() == {f"prefix/{_key(SMALL)}": SMALL}


@pytest.mark.parametrize("content", [SMALL, LARGEST], ids=_name)
async def test_a_frozen_bucket_is_not_waited_for_for_ever(
    bucket: Bucket, store: Cloud, content: bytes
) -> None:
    hasty = Cloud.open(f"s3://{bucket.name}/prefix", request_seconds=0.2)
    bucket.faults.append(Fault(freezes, ("put", "part"), times=math.inf))

    with pytest.raises(Transient) as failed:
        await storage.put(hasty, _chunks(content), None)
    _assert_tells_no_secrets(failed.value)

    bucket.faults.clear()
    bucket.thawed.set()  # what was sent meanwhile arrives late
    await storage.put(store, _chunks(content), None)
    assert await bucket.objects() == {f"prefix/{_key(content)}": content}


@pytest.mark.parametrize(
    ("content", "kind", "skip"),
    [
        (SMALL, "head", 0),
        (SMALL, "put", 0),
        (SMALL, "head", 1),
        (LARGEST, "part", 1),
        (LARGEST, "part", 2),
        (LARGEST, "complete", 0),
    ],
    ids=_name,
)
async def test_a_cancelled_put_leaves_the_whole_object_or_nothing_not_even_parts(
    bucket: Bucket, store: Cloud, content: bytes, kind: str, skip: int
) -> None:
    bucket.faults.append(Fault(freezes, (kind,), skip))
    await _cancel_in_the_middle(bucket, replace(store, abort_seconds=60), content)

    assert list((await bucket.objects()).values()) in ([], [content])
    assert await bucket.unfinished() == []


@pytest.mark.parametrize("kind", ["initiate", "part"])
async def test_a_cancelled_upload_is_given_up_and_not_finished(
    bucket: Bucket, store: Cloud, kind: str
) -> None:
    bucket.faults.append(Fault(freezes, (kind,)))
    await _cancel_in_the_middle(bucket, replace(store, abort_seconds=60), LARGEST)

    assert await bucket.objects() == {}
    assert await bucket.unfinished() == []


async def test_a_killed_process_leaves_no_object(bucket: Bucket) -> None:
    """Parts it may leave: the README asks for a lifecycle rule."""
    bucket.faults.append(Fault(freezes, ("part",), skip=1))
    url = f"s3://{bucket.name}/prefix"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PUT, url, cwd=ROOT)
    await bucket.frozen.wait()

    process.kill()
    await process.wait()
    bucket.thawed.set()

    assert await bucket.objects() == {}


@pytest.mark.parametrize("answer", [SLOW_DOWN, BROKEN, breaks_off, resets])
async def test_a_read_outlives_what_passes_and_tells_what_lasts(
    bucket: Bucket, store: Cloud, answer: Answer
) -> None:
    await bucket.place(f"prefix/{_key(LARGE)}", LARGE)
    bucket.faults.append(Fault(answer, ("get",), skip=1))

    assert await _read(store, _key(LARGE)) == LARGE

    bucket.faults.append(Fault(answer, ("get",), skip=1, times=math.inf))
    with pytest.raises(Transient) as failed:
        await _read(store, _key(LARGE))
    _assert_tells_no_secrets(failed.value)


async def test_an_object_that_changes_while_it_is_read_is_no_whole_object(
    bucket: Bucket, store: Cloud
) -> None:
    name = f"prefix/{_key(LARGE)}"
    await bucket.place(name, LARGE)
    shrinks, goes = [await storage.open(store, _key(LARGE)) for _ in range(2)]

    await bucket.place(name, LARGE[:-1])
    with pytest.raises(Transient):
        _ = [chunk async for chunk in shrinks.chunks]

    await bucket.remove(name)
    with pytest.raises(Permanent) as missing:
        await anext(goes.chunks)
    assert missing.value.code == "object_missing"


async def test_what_is_not_there_is_missing(store: Cloud) -> None:
    for look in (storage.stat, storage.open):
        with pytest.raises(Permanent) as missing:
            await look(store, _key(SMALL))
        assert missing.value.code == "object_missing"


async def test_a_bucket_that_is_not_there_may_come(bucket: Bucket) -> None:
    absent = Cloud.open("s3://no-such-bucket/prefix")

    for attempt in (storage.put(absent, _chunks(SMALL), None), storage.check(absent)):
        with pytest.raises(Transient, match="NoSuchBucket"):
            await attempt


async def test_a_probe_leaves_nothing_and_tells_who_may_not_delete(bucket: Bucket, store: Cloud) -> None:
    assert await storage.probe(store)
    left = await bucket.objects()
    bucket.faults.append(Fault(refuses(403, "AccessDenied"), ("post", "delete"), times=math.inf))
    may_delete = await storage.probe(store)
    bucket.faults[:] = [Fault(refuses(403, "AccessDenied"), times=math.inf)]
    with pytest.raises(Transient) as refused:
        await storage.probe(store)

    assert left == {}
    assert not may_delete
    assert refused.value.code == "storage_unavailable"
    assert SECRET not in refused.value.message


async def test_the_check_leaves_nothing_that_adds_up(bucket: Bucket, store: Cloud) -> None:
    for _ in range(3):
        await storage.check(store)

    assert await bucket.objects() == {"prefix/holdfast-check": b"holdfast"}


async def test_nothing_is_lost_while_the_bucket_wants_us_to_slow_down(
    bucket: Bucket, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    settings = settings.model_copy(update={"storage_url": f"s3://{bucket.name}/prefix"})
    contents = [SMALL, LARGEST]
    # Each request is sent four times, so this is the end of both files' first attempt.
    bucket.faults.append(Fault(SLOW_DOWN, times=8))
    async with serving(settings, zendesk) as client, working(settings):
        urls = [zendesk.add_file(f"{len(content)}.pdf", content) for content in contents]
        receipt = await client.send(zendesk.payload(attachments=urls))
        email = await client.until(receipt["email_id"], "completed", "failed")
        bucket.faults.append(Fault(SLOW_DOWN, times=3))
        read = []
        for attachment in email["attachments"]:
            async with client.session.get(
                client.url + attachment["href"], headers={"Authorization": f"Bearer {API_TOKEN}"}
            ) as response:
                read.append(await response.read())

    assert [attempt["outcome"] for attempt in email["attempts"]] == ["released", "completed"]
    assert email["attempts"][0]["error_code"] == "storage_unavailable"
    assert read == contents
    assert await bucket.objects() == {f"prefix/{_key(content)}": content for content in contents}


async def _cancel_in_the_middle(bucket: Bucket, store: Cloud, content: bytes) -> None:
    task = asyncio.create_task(storage.put(store, _chunks(content), None))
    await bucket.frozen.wait()
    task.cancel()
    await asyncio.sleep(0)
    bucket.thawed.set()
    await asyncio.wait({task})
    assert task.cancelled()


def _assert_tells_no_secrets(error: Transient) -> None:
    assert error.code == "storage_unavailable"
    assert error.message.startswith("storage: ")
    assert not {
        secret for secret in (SECRET, PRIVATE, "Signature", "?", "<", "\n") if secret in error.message
    }


def _key(content: bytes) -> str:
    digest = sha256(content).hexdigest()
    return f"sha256/{digest[:2]}/{digest[2:]}"


async def _read(store: Cloud, key: str) -> bytes:
    opened = await storage.open(store, key)
    return b"".join([chunk async for chunk in opened.chunks])


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 64 * 1024):
        await asyncio.sleep(0)
        yield content[start : start + 64 * 1024]


PUT = """
import asyncio, sys
from service.storage.objects import open_storage, put

async def chunks():
    for _ in range(11):
        yield bytes(1024**2)

asyncio.run(put(open_storage(sys.argv[1]), chunks(), None))
"""
