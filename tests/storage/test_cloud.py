"""A bucket keeps each stored object, under any fault of S3 or of the connection."""

import asyncio
import base64
import math
import re
import socket
import sys
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Literal

import pytest
from aiohttp import web
from obstore.store import S3Store
from yarl import URL

from service.config.settings import Settings
from service.errors import Permanent, SettingsError, Transient
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources, check_usable
from service.storage import objects as storage
from service.storage.cloud import Cloud
from service.storage.objects import open_storage
from tests.conftest import API_TOKEN, ROOT, serving, working
from tests.support.places import LARGE, LARGEST, SMALL, chunks, key, listed, read
from tests.support.s3 import (
    CHECKSUM,
    PRIVATE,
    SECRET,
    Answer,
    Bucket,
    Fault,
    breaks_off,
    damages,
    freezes,
    lies,
    misnames,
    refuses,
    resets,
)

PART = 5 * 1024**2


def _name(value: object) -> str:
    """Name a parameter of a test."""
    return f"{len(value)}-bytes" if isinstance(value, bytes) else str(value)


SLOW_DOWN = refuses(503, "SlowDown")
BROKEN = refuses(500, "InternalError")
SORRY = refuses(200, "InternalError")  # an error that S3 sends after its response began

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


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def store(bucket: Bucket) -> Cloud:
    return Cloud.open(f"s3://{bucket.name}/prefix")


@pytest.mark.parametrize(("content", "fault"), PASSING, ids=_name)
async def test_a_short_fault_is_retried(bucket: Bucket, store: Cloud, content: bytes, fault: Fault) -> None:
    bucket.faults.append(replace(fault))

    stored = await storage.put(store, chunks(content), None)

    assert await bucket.objects() == {f"prefix/{stored.key}": content}
    assert await bucket.unfinished() == []


@pytest.mark.parametrize(("content", "fault"), LASTING, ids=_name)
async def test_a_lasting_fault_leaves_the_whole_object_or_nothing_until_the_next_put(
    bucket: Bucket, store: Cloud, content: bytes, fault: Fault
) -> None:
    whole = {f"prefix/{key(content)}": content}
    bucket.faults.append(replace(fault, times=math.inf))

    with pytest.raises(Transient) as failed:
        await storage.put(store, chunks(content), None)
    _assert_tells_no_secrets(failed.value)
    assert await bucket.objects() in ({}, whole)
    assert await bucket.unfinished() == []

    bucket.faults.clear()
    await storage.put(store, chunks(content), None)
    assert await bucket.objects() == whole


@pytest.mark.parametrize("content", [b"", SMALL, LARGE, LARGEST], ids=_name)
async def test_each_body_is_sent_with_its_checksum(bucket: Bucket, store: Cloud, content: bytes) -> None:
    await storage.put(store, chunks(content), None)

    bodies = (
        [content]
        if len(content) <= PART
        else [content[at : at + PART] for at in range(0, len(content), PART)]
    )
    sent = zip(bucket.requests, bucket.headers, strict=True)
    told = {kind: headers.get(CHECKSUM) for kind, headers in sent}
    checksums = [headers[CHECKSUM] for headers in bucket.headers if CHECKSUM in headers]
    assert checksums == [base64.b64encode(sha256(body).digest()).decode() for body in bodies]
    if len(content) > PART:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html S3 wants the
        # checksums of all parts again; one in the header would count for the whole.
        completed = bucket.bodies[bucket.requests.index("complete")].decode()
        assert re.findall("<ChecksumSHA256>(.*?)</ChecksumSHA256>", completed) == checksums
        assert told["complete"] is None


@pytest.mark.parametrize(("content", "kind"), [(SMALL, "put"), (LARGEST, "part")], ids=_name)
async def test_a_byte_changed_in_transit_is_refused_by_its_checksum(
    bucket: Bucket, content: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_UNSIGNED_PAYLOAD", "true")  # otherwise its signature would reveal it
    store = Cloud.open(f"s3://{bucket.name}/prefix")
    bucket.faults.append(Fault(damages, (kind,)))

    with pytest.raises(Transient, match="BadDigest"):
        await storage.put(store, chunks(content), None)
    assert await bucket.objects() == {}

    await storage.put(store, chunks(content), None)
    assert await bucket.objects() == {f"prefix/{key(content)}": content}


@pytest.mark.parametrize(
    ("variable", "value", "sent"),
    [
        ("AWS_CHECKSUM_ALGORITHM", "", CHECKSUM),
        ("AWS_CHECKSUM_ALGORITHM", "crc64nvme", "x-amz-checksum-crc64nvme"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_SUPPORTED", CHECKSUM),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED", None),
    ],
)
async def test_the_operators_variables_choose_the_checksum(
    bucket: Bucket, variable: str, value: str, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)

    await storage.put(Cloud.open(f"s3://{bucket.name}/prefix"), chunks(SMALL), None)

    headers = bucket.headers[bucket.requests.index("put")]
    assert [name.lower() for name in headers if name.lower().startswith("x-amz-checksum")] == (
        [sent] if sent else []
    )


@pytest.mark.parametrize(("content", "kind"), [(SMALL, "put"), (LARGEST, "complete")], ids=_name)
async def test_a_false_success_of_the_bucket_is_detected(
    bucket: Bucket, store: Cloud, content: bytes, kind: str
) -> None:
    bucket.faults.append(Fault(lies, (kind,)))

    with pytest.raises(Transient):
        await storage.put(store, chunks(content), None)

    await storage.put(store, chunks(content), None)
    assert await bucket.objects() == {f"prefix/{key(content)}": content}


async def test_a_write_only_account_can_put(bucket: Bucket, store: Cloud) -> None:
    bucket.faults.append(Fault(refuses(403, "AccessDenied"), ("head", "get"), times=math.inf))

    await storage.put(store, chunks(SMALL), None)

    assert await bucket.objects() == {f"prefix/{key(SMALL)}": SMALL}


@pytest.mark.parametrize("content", [SMALL, LARGEST], ids=_name)
async def test_a_frozen_bucket_ends_in_a_timeout(bucket: Bucket, store: Cloud, content: bytes) -> None:
    hasty = Cloud.open(f"s3://{bucket.name}/prefix", request_seconds=0.2)
    bucket.faults.append(Fault(freezes, ("put", "part"), times=math.inf))

    with pytest.raises(Transient) as failed:
        await storage.put(hasty, chunks(content), None)
    _assert_tells_no_secrets(failed.value)

    bucket.faults.clear()
    bucket.thawed.set()  # delayed requests arrive late
    await storage.put(store, chunks(content), None)
    assert await bucket.objects() == {f"prefix/{key(content)}": content}


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
async def test_a_cancelled_upload_is_aborted(bucket: Bucket, store: Cloud, kind: str) -> None:
    bucket.faults.append(Fault(freezes, (kind,)))
    await _cancel_in_the_middle(bucket, replace(store, abort_seconds=60), LARGEST)

    assert await bucket.objects() == {}
    assert await bucket.unfinished() == []


async def test_a_killed_process_leaves_no_object(bucket: Bucket) -> None:
    """Parts may remain: the README asks for a lifecycle rule."""
    bucket.faults.append(Fault(freezes, ("part",), skip=1))
    url = f"s3://{bucket.name}/prefix"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PUT, url, cwd=ROOT)
    await bucket.frozen.wait()

    process.kill()
    await process.wait()
    bucket.thawed.set()

    assert await bucket.objects() == {}


@pytest.mark.parametrize("answer", [SLOW_DOWN, BROKEN, breaks_off, resets])
async def test_a_read_survives_short_faults_and_reports_lasting_ones(
    bucket: Bucket, store: Cloud, answer: Answer
) -> None:
    await bucket.place(f"prefix/{key(LARGE)}", LARGE)
    bucket.faults.append(Fault(answer, ("get",), skip=1))

    assert await read(store, key(LARGE)) == LARGE

    bucket.faults.append(Fault(answer, ("get",), skip=1, times=math.inf))
    with pytest.raises(Transient) as failed:
        await read(store, key(LARGE))
    _assert_tells_no_secrets(failed.value)


async def test_an_unreachable_bucket_is_transient(monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    bucket = open_storage("s3://bucket/prefix")

    for attempt in (storage.put(bucket, chunks(LARGE), None), storage.check(bucket)):
        with pytest.raises(Transient) as failed:
            await attempt
        assert failed.value.code == "storage_unavailable"
        assert "hidden" not in failed.value.message
        assert "\n" not in failed.value.message


async def test_a_missing_bucket_is_transient(bucket: Bucket) -> None:
    absent = Cloud.open("s3://no-such-bucket/prefix")

    for attempt in (storage.put(absent, chunks(SMALL), None), storage.check(absent)):
        with pytest.raises(Transient, match="NoSuchBucket"):
            await attempt


async def test_a_listing_is_fetched_page_by_page_as_it_is_read(bucket: Bucket, store: Cloud) -> None:
    names = {f"sha256/ab/{number:062x}" for number in range(1001)}
    await asyncio.gather(*(bucket.place(f"prefix/{name}", b"") for name in names))

    listing = storage.listing(store, "sha256/ab/")
    first = await anext(listing)
    asked = len(bucket.requests)
    rest = [one.key async for one in listing]

    assert {first.key, *rest} == names
    assert (asked, len(bucket.requests)) == (1, 2)


@pytest.mark.parametrize("answer", [SLOW_DOWN, BROKEN, resets])
async def test_a_listing_survives_short_faults_and_reports_lasting_ones(
    bucket: Bucket, store: Cloud, answer: Answer
) -> None:
    await bucket.place(f"prefix/{key(SMALL)}", SMALL)
    bucket.faults.append(Fault(answer, ("get",)))

    assert [one.key for one in await listed(store)] == [key(SMALL)]

    bucket.faults.append(Fault(answer, ("get",), times=math.inf))
    with pytest.raises(Transient) as failed:
        await listed(store)
    _assert_tells_no_secrets(failed.value)


async def test_a_truncated_page_of_a_listing_is_an_error(bucket: Bucket, store: Cloud) -> None:
    await bucket.place(f"prefix/{key(SMALL)}", SMALL)
    bucket.faults.append(Fault(breaks_off, ("get",)))

    with pytest.raises(Transient) as failed:
        await listed(store)
    _assert_tells_no_secrets(failed.value)
    assert [one.key for one in await listed(store)] == [key(SMALL)]


async def test_a_forbidden_removal_is_reported_and_the_object_stays(bucket: Bucket, store: Cloud) -> None:
    await storage.put(store, chunks(SMALL), None)
    bucket.faults.append(Fault(refuses(403, "AccessDenied"), ("post", "delete")))

    with pytest.raises(Permanent, match="AccessDenied") as refused:
        await storage.remove(store, key(SMALL))

    _assert_tells_no_secrets(refused.value)
    assert await bucket.objects() == {f"prefix/{key(SMALL)}": SMALL}


@pytest.mark.parametrize(("method", "other"), [("GET", "HEAD"), ("HEAD", "GET")])
async def test_a_signed_address_is_valid_for_its_method_until_it_expires(
    bucket: Bucket, store: Cloud, method: Literal["GET", "HEAD"], other: str
) -> None:
    """The proxy before moto checks signature and time, as S3 does; moto checks neither."""
    await storage.put(store, chunks(SMALL), None)

    async def ask(asked: str, expires: timedelta) -> tuple[int, bytes]:
        address = await storage.sign(store, key(SMALL), method=method, expires=expires)
        assert address
        assert SECRET not in address
        async with bucket.session.request(asked, URL(address, encoded=True)) as response:
            return response.status, await response.read()

    assert await ask(method, timedelta(minutes=5)) == (200, SMALL if method == "GET" else b"")
    assert (await ask(other, timedelta(minutes=5)))[0] == 403
    assert (await ask(method, timedelta(0)))[0] == 403


async def test_without_credentials_nothing_is_signed_or_searched(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    # Otherwise the client would ask a cloud's metadata server at this address.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", bucket.url)

    store = Cloud.open(f"s3://{bucket.name}/prefix")

    assert await storage.sign(store, key(SMALL), method="GET", expires=timedelta(minutes=5)) is None
    assert bucket.requests == []


async def test_a_sas_token_for_azure_cannot_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2023-11-03&sig=hidden")

    store = open_storage("az://container/prefix")

    assert await storage.sign(store, key(SMALL), method="GET", expires=timedelta(minutes=5)) is None


async def test_a_probe_leaves_nothing_and_detects_a_missing_right_to_delete(
    bucket: Bucket, store: Cloud
) -> None:
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


async def test_repeated_checks_leave_one_object(bucket: Bucket, store: Cloud) -> None:
    for _ in range(3):
        await storage.check(store)

    assert await bucket.objects() == {"prefix/holdfast-check": b"holdfast"}


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
async def test_the_check_writes_unconditionally_if_the_server_lacks_conditions(
    bucket: Bucket, store: Cloud, status: int, code: str
) -> None:
    async def knows_no_condition(bucket: Bucket, request: web.Request) -> web.StreamResponse:
        is_plain = "If-None-Match" not in request.headers
        return await (Bucket.forward if is_plain else refuses(status, code))(bucket, request)

    bucket.faults.append(Fault(knows_no_condition, ("put",), times=math.inf))

    await storage.check(store)

    assert await bucket.objects() == {"prefix/holdfast-check": b"holdfast"}


# ── what the variables say


@pytest.mark.parametrize(
    ("url", "variable", "value", "says"),
    [
        ("s3://bucket/a", "AWS_ENDPOINT_URL", "minio.hunter2.example:9000", "must be an address that begins"),
        ("s3a://bucket/a", "AWS_ENDPOINT_URL_S3", "hunter2", "must be an address that begins"),
        ("s3://bucket/a", "AWS_ENDPOINT", " https://hunter2.example", "must be an address that begins"),
        ("s3://bucket/a", "AWS_ENDPOINT_URL", "https://", "must be an address that begins"),
        ("az://box/a", "AZURE_STORAGE_ENDPOINT", "hunter2", "must be an address that begins"),
        ("abfss://box/a", "AZURE_ENDPOINT", "hunter2", "must be an address that begins"),
    ],
)
def test_an_address_that_crashes_the_client_ends_the_start_with_one_line(
    settings: Settings, url: str, variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as refused:
        check_usable(settings.model_copy(update={"storage_url": url}))

    assert str(refused.value).startswith(f"{variable}: ")
    assert says in str(refused.value)
    assert not {secret for secret in ("hunter2", "\n") if secret in str(refused.value)}


async def test_an_empty_variable_counts_as_unset(
    bucket: Bucket, store: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "")

    await storage.put(Cloud.open(f"s3://{bucket.name}/prefix"), chunks(SMALL), None)

    assert await bucket.objects() == {f"prefix/{key(SMALL)}": SMALL}
    assert "x-amz-security-token" not in bucket.headers[-1]


async def test_a_crash_of_the_client_is_an_error_of_ours() -> None:
    store = Cloud(S3Store("bucket", endpoint="minio:9000", access_key_id="key", secret_access_key=SECRET))

    for attempt in (storage.put(store, chunks(SMALL), None), storage.check(store)):
        with pytest.raises(Transient, match="client crashed") as failed:
            await attempt
        _assert_tells_no_secrets(failed.value)


async def test_a_password_in_an_address_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://somebody:hunter2@127.0.0.1:{unused_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    with pytest.raises(Transient, match=f"http://127.0.0.1:{unused_port}/bucket") as failed:
        await storage.check(open_storage("s3://bucket/prefix"))

    _assert_tells_no_secrets(failed.value)
    assert not {secret for secret in ("somebody", "hunter2") if secret in failed.value.message}


async def test_nothing_is_lost_while_the_bucket_answers_slow_down(
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
    assert await bucket.objects() == {f"prefix/{key(content)}": content for content in contents}


async def _cancel_in_the_middle(bucket: Bucket, store: Cloud, content: bytes) -> None:
    task = asyncio.create_task(storage.put(store, chunks(content), None))
    await bucket.frozen.wait()
    task.cancel()
    await asyncio.sleep(0)
    bucket.thawed.set()
    await asyncio.wait({task})
    assert task.cancelled()


def _assert_tells_no_secrets(error: Permanent | Transient) -> None:
    start = {
        "storage_unavailable": "storage: ",
        "object_locked": "the storage refuses to remove the object: ",
    }
    assert error.message.startswith(start[error.code])
    assert not {
        secret for secret in (SECRET, PRIVATE, "Signature", "?", "<", "\n") if secret in error.message
    }


PUT = """
import asyncio, sys
from service.storage.objects import open_storage, put

async def chunks():
    for _ in range(11):
        yield bytes(1024**2)

asyncio.run(put(open_storage(sys.argv[1]), chunks(), None))
"""
