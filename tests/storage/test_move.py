"""A move ends with every object in the other storage; a damaged object is named and stays."""

import asyncio
import json
import math
import os
import random
import re
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from service.cli.main import main
from service.storage.objects import open_storage
from service.storage.vendors import locate, overlap
from tests.conftest import ROOT
from tests.support import forked
from tests.support.commands import on_a_terminal
from tests.support.places import Directory, InBucket, Place, key, listed
from tests.support.s3 import ACCESS_KEY, SECRET, Bucket, Fault, freezes, proxied, refuses

CHANCE = random.Random(3)
MANY = [CHANCE.randbytes(CHANCE.randrange(1, 3000)) for _ in range(12)]
LARGE = CHANCE.randbytes(3 * 1024**2 + 17)
LARGEST = CHANCE.randbytes(11 * 1024**2 + 17)
ALL = {key(content): content for content in (b"", LARGE, LARGEST, *MANY)}


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.out)
        return told


@asynccontextmanager
async def moving(*words: str) -> AsyncIterator[Process]:
    """Run the command without Postgres and Redis."""
    variables = {name: value for name, value in os.environ.items() if name != "STORAGE_URL"}
    process = await forked.create_subprocess_exec(
        *(sys.executable, "-m", "service", "storage", "move", *words),
        cwd=ROOT,
        env=variables,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def move_alone(*words: str) -> Done:
    """Run the command as an operator does."""
    async with moving(*words) as process:
        out, err = await process.communicate()
        assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def move(*words: str, storage_url: str | None = None) -> Done:
    """Run the command in a thread with a loop of its own: a new process takes longer than most moves."""
    runner = CliRunner(env={"STORAGE_URL": storage_url})
    done = await asyncio.to_thread(runner.invoke, main, ["storage", "move", *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def disk(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "objects")


@pytest.fixture
def there(bucket: Bucket) -> InBucket:
    return InBucket(bucket)


@pytest.fixture(params=["disk to bucket", "bucket to disk"])
def ends(request: pytest.FixtureRequest, disk: Directory, there: InBucket) -> tuple[Place, Place]:
    return (disk, there) if request.param == "disk to bucket" else (there, disk)


async def fill(place: Place, contents: dict[str, bytes]) -> None:
    await asyncio.gather(*(place.place(name, content) for name, content in contents.items()))
    if isinstance(place, Directory):
        await asyncio.to_thread((place.root / ".spool").mkdir, parents=True, exist_ok=True)


async def kept(place: Place) -> dict[str, bytes]:
    """Return the objects of a storage, without the one of a bucket's check."""
    return {name: content for name, content in (await place.objects()).items() if name != "holdfast-check"}


def summary(**more: object) -> dict[str, object]:
    nothing: dict[str, object] = {"copied": 0, "copied_bytes": 0, "skipped": 0, "removed": 0}
    return {"complete": True, **nothing, "problems": {}, "stopped": None, **more}


# ── all goes well


async def test_a_move_copies_everything_and_a_second_one_nothing(
    ends: tuple[Place, Place],
) -> None:
    source, target = ends
    await fill(source, ALL)

    first = await move(source.url, target.url, "--json")
    before = await target.writes()
    second = await move(source.url, target.url)

    assert (first.code, first.err) == (0, "")
    assert first.told == summary(copied=len(ALL), copied_bytes=sum(map(len, ALL.values())))
    assert await kept(target) == await kept(source) == ALL
    assert (second.code, second.out) == (0, f"0 copied (0 bytes), {len(ALL)} were there\n")
    assert [*await target.writes()] in ([*before], [*before, "put"])  # including the one that checks a bucket


async def test_heads_of_the_evidence_log_are_counted_as_objects_are(disk: Directory, tmp_path: Path) -> None:
    await fill(disk, ALL)
    head = disk.root / "heads" / ("0" * 32) / "000000000001.json"
    await asyncio.to_thread(head.parent.mkdir, parents=True)
    await asyncio.to_thread(head.write_bytes, b"{}")
    target = Directory(tmp_path / "target")

    counts = [(await move(disk.url, target.url, "--json")).told for _ in range(2)]

    assert [each["copied"] for each in counts] == [len(ALL) + 1, 0]
    assert [each["skipped"] for each in counts] == [0, len(ALL) + 1]


@pytest.mark.parametrize("options", [(), ("--delete",)])
async def test_a_head_that_the_target_has_otherwise_is_named_and_all_others_are_copied(
    disk: Directory, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """After a restore, two storages may have heads of two histories under one number."""
    await fill(disk, {key(b"one"): b"one"})
    other = Directory(tmp_path / "other")
    names = [f"heads/{'0' * 32}/{number:012}.json" for number in range(3)]
    for name in names:
        await asyncio.to_thread(write, disk.root / name, b"{}")
    await asyncio.to_thread(write, other.root / names[1], b"[]")
    await asyncio.to_thread((other.root / ".spool").mkdir, parents=True)

    done = await move(disk.url, other.url, *options)

    assert (done.code, "is another one; the one in FROM stays" in done.err) == (1, True)
    there = [await asyncio.to_thread((other.root / name).read_bytes) for name in names]
    assert there == [b"{}", b"[]", b"{}"]
    assert await asyncio.to_thread((disk.root / names[1]).read_bytes) == b"{}"


async def test_a_head_that_the_source_does_not_let_go_is_named(disk: Directory, there: InBucket) -> None:
    """A bucket may have an object lock for heads."""
    name = f"heads/{'0' * 32}/000000000001.json"
    await there.place(name, b"{}")
    await fill(there, {key(b"one"): b"one"})
    await asyncio.to_thread((disk.root / ".spool").mkdir, parents=True)
    assert (await move(there.url, disk.url)).code == 0
    there.bucket.faults.append(Fault(refuses(403, "AccessDenied"), ("post", "delete"), times=math.inf))

    done = await move(there.url, disk.url, "--delete")

    assert done.code == 1
    assert f"{name}: object_locked: the storage refuses to remove the object: AccessDenied" in done.err


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


async def test_objects_beyond_one_page_of_a_listing_are_moved(disk: Directory, tmp_path: Path) -> None:
    target = Directory(tmp_path / "target")
    many = {key(content): content for content in (b"%d" % number for number in range(1_100))}
    await fill(disk, many)

    done = await move(disk.url, target.url, "--delete", "--json")

    assert (done.told["copied"], done.told["removed"]) == (1_100, 1_100)
    assert await kept(target) == many
    assert await kept(disk) == {}


async def test_with_delete_only_the_target_has_it(ends: tuple[Place, Place]) -> None:
    source, target = ends
    await fill(source, ALL)
    for content in MANY[:5]:
        await target.place(key(content), content)

    done = await move(source.url, target.url, "--delete", "--json")

    assert done.told["removed"] == len(ALL)
    assert (done.told["copied"], done.told["skipped"]) == (len(ALL) - 5, 5)
    assert await kept(source) == {}
    assert await kept(target) == ALL


async def test_a_move_there_and_back_changes_nothing(
    disk: Directory, there: InBucket, tmp_path: Path
) -> None:
    await fill(disk, ALL)
    back = Directory(tmp_path / "back")

    for source, target in ((disk, there), (there, back)):
        done = await move(source.url, target.url)
        assert done.code == 0, done.err

    assert await kept(back) == ALL


async def test_other_files_stay_behind(disk: Directory, there: InBucket) -> None:
    strange = {"README": b"x", "sha256/README": b"x", ".spool/half": b"x", "sha256/ab/short": b"x"}
    await fill(disk, {**strange, key(LARGE): LARGE})

    done = await move(disk.url, there.url, "--delete")

    assert done.code == 0
    assert await kept(there) == {key(LARGE): LARGE}
    assert await kept(disk) == strange


async def test_two_buckets_may_have_separate_credentials(
    there: InBucket, s3_server: str, tmp_path: Path
) -> None:
    async with proxied(s3_server) as other:
        old = InBucket(other)
        await fill(old, ALL)
        file = tmp_path / "old.env"
        lines = {
            "AWS_ENDPOINT_URL": other.url,
            "AWS_ACCESS_KEY_ID": "another-key",
            "AWS_SECRET_ACCESS_KEY": "another-secret",
        }
        await asyncio.to_thread(
            file.write_text, "".join(f"{name}={value}\n" for name, value in lines.items())
        )

        done = await move(old.url, there.url, "--from-env", str(file))

        keys = {re.findall("Credential=([^/]+)", headers["Authorization"])[0] for headers in other.headers}
    assert done.code == 0, done.err
    assert await kept(there) == ALL
    assert keys == {"another-key"}
    keys = {re.findall("Credential=([^/]+)", headers["Authorization"])[0] for headers in there.bucket.headers}
    assert keys == {ACCESS_KEY}
    assert not [secret for secret in ("another-secret", SECRET) if secret in done.out + done.err]


# ── it is killed


@pytest.mark.parametrize(("kind", "skip"), [("put", 7), ("part", 1), ("complete", 0)])
async def test_a_move_to_a_bucket_continues_after_a_kill_and_sends_no_object_twice(
    disk: Directory, there: InBucket, kind: str, skip: int
) -> None:
    await fill(disk, ALL)
    bucket = there.bucket
    bucket.faults.append(Fault(freezes, (kind,), skip))
    async with moving(disk.url, there.url, "--delete") as process:
        await bucket.frozen.wait()
        process.kill()
    bucket.thawed.set()
    first = await bucket.objects()
    bucket.requests.clear()

    left = await kept(disk)
    done = await move(disk.url, there.url, "--delete", "--json")

    named = {name.removeprefix("prefix/"): content for name, content in first.items()}
    assert {**named, **left}.items() >= ALL.items()
    assert all(ALL[name] == content for name, content in named.items() if name in ALL)
    assert done.code == 0, done.err
    assert done.told["copied"] <= len(ALL.keys() - named.keys())
    assert {name for name in await bucket.objects() if "sha256" in name} >= {f"prefix/{name}" for name in ALL}
    assert {name: content for name, content in named.items() if name not in ALL}.keys() <= {"holdfast-check"}
    assert await kept(disk) == {}


@pytest.mark.parametrize("skip", [9])
async def test_a_move_to_a_disk_continues_after_a_kill_and_leaves_no_half_file(
    disk: Directory, there: InBucket, skip: int
) -> None:
    await fill(there, ALL)
    bucket = there.bucket
    bucket.faults.append(Fault(freezes, ("get",), 2 + skip))  # two listings come first
    async with moving(there.url, disk.url) as process:
        await bucket.frozen.wait()
        process.kill()
    bucket.thawed.set()
    first = await kept(disk)

    done = await move(there.url, disk.url, "--json")

    whole = {name for name in first if name.startswith("sha256/")}
    assert all(first[name] == ALL[name] for name in whole)
    assert done.code == 0, done.err
    assert done.told["skipped"] == len(whole)
    assert await kept(disk) == ALL


# ── something is wrong


async def test_a_damaged_object_is_named_and_all_others_are_copied(disk: Directory, there: InBucket) -> None:
    source, target = there, disk
    bad = {key(MANY[0]): b"wolf", key(LARGEST): LARGEST[:-1] + b"!"}
    await fill(source, {**ALL, **bad})

    done = await move(source.url, target.url, "--delete", "--json")

    assert done.code == 1
    assert done.told["problems"] == {"object_damaged": 2}
    assert sorted(line.partition(":")[0] for line in done.err.splitlines()) == sorted(bad)
    assert await kept(source) == bad
    assert await kept(target) == {name: content for name, content in ALL.items() if name not in bad}


async def test_the_original_of_a_damaged_copy_stays(disk: Directory, there: InBucket) -> None:
    """An equal size skips the copy, but does not allow a removal of the original."""
    source, target = disk, there
    name = key(MANY[0])
    await fill(source, ALL)
    await target.place(name, bytes(len(MANY[0])))

    kept_all = await move(source.url, target.url)
    done = await move(source.url, target.url, "--delete", "--json")

    assert kept_all.code == 0
    assert done.code == 1
    assert done.told["problems"] == {"object_damaged": 1}
    assert done.err.startswith(f"{name}: object_damaged: ")
    assert await kept(source) == {name: MANY[0]}


async def test_half_an_object_in_the_target_is_replaced(disk: Directory, there: InBucket) -> None:
    source, target = disk, there
    await fill(source, ALL)
    await target.place(key(LARGE), LARGE[:1000])

    done = await move(source.url, target.url)

    assert done.code == 0
    assert await kept(target) == ALL


@pytest.mark.parametrize("kind", ["head", "get"])
async def test_a_vanished_object_is_named_and_all_others_are_moved(
    disk: Directory, there: InBucket, kind: str
) -> None:
    """It is in the listing, and gone at its stat or during its read."""
    await fill(there, ALL)
    gone: list[str] = []

    async def vanishes(bucket: Bucket, request: Any) -> Any:
        name = request.path.partition(f"{bucket.name}/")[2]
        if not gone and name and "sha256" in name:
            gone.append(name.removeprefix("prefix/"))
            await bucket.remove(name)
        return await bucket.forward(request)

    there.bucket.faults.append(Fault(vanishes, (kind,), times=math.inf))

    done = await move(there.url, disk.url, "--json")

    assert done.code == 1
    assert done.told["problems"] == {"object_missing": 1}
    assert done.err.startswith(f"{gone[0]}: object_missing: ")
    assert await kept(disk) == {name: content for name, content in ALL.items() if name != gone[0]}


async def test_an_object_moved_by_another_process_is_no_problem(disk: Directory, there: InBucket) -> None:
    await fill(there, ALL)
    taken: list[str] = []

    async def takes(bucket: Bucket, request: Any) -> Any:
        name = request.path.partition(f"{bucket.name}/prefix/")[2]
        if not taken:
            taken.append(name)
            await disk.place(name, ALL[name])
            await bucket.remove(f"prefix/{name}")
        return await bucket.forward(request)

    there.bucket.faults.append(Fault(takes, ("head",), times=math.inf))

    done = await move(there.url, disk.url, "--json")

    assert (done.code, done.err) == (0, "")
    assert done.told["skipped"] == 1
    assert await kept(disk) == ALL


async def test_two_moves_at_once_do_what_one_does(disk: Directory, there: InBucket) -> None:
    await fill(disk, ALL)

    done = await asyncio.gather(*(move_alone(disk.url, there.url, "--delete") for _ in range(2)))

    assert [each.code for each in done] == [0, 0], done
    assert await kept(disk) == {}
    assert await kept(there) == ALL


async def test_a_target_that_accepts_nothing_ends_the_move_early(disk: Directory, there: InBucket) -> None:
    await fill(disk, {key(b"%d" % number): b"%d" % number for number in range(200)})
    there.bucket.faults.append(Fault(refuses(403, "AccessDenied"), ("put",), skip=1, times=math.inf))

    done = await move(disk.url, there.url, "--json")

    assert done.code == 1
    assert 20 <= done.told["problems"]["storage_unavailable"] < 40
    assert "AccessDenied" in done.told["stopped"]
    assert "The move stopped early: " in done.err
    assert len(await disk.objects()) == 200
    assert not [secret for secret in (SECRET, "Signature", "Traceback") if secret in done.out + done.err]


async def test_an_unmounted_source_is_not_taken_for_an_empty_one(disk: Directory, there: InBucket) -> None:
    done = await move(disk.url, there.url)

    assert done.code == 1
    assert "may not be mounted" in done.err


async def test_an_empty_source_is_reported(disk: Directory, tmp_path: Path) -> None:
    """After a mistyped prefix, an operator would continue with an empty storage."""
    target, wrong = Directory(tmp_path / "target"), Directory(tmp_path / "wrong")
    await fill(disk, {key(LARGE): LARGE})
    await fill(wrong, {})

    done = await move(wrong.url, target.url, "--json")
    emptied = await move(wrong.url, target.url, "--delete", "--json")
    moved = await move(disk.url, target.url, "--delete", "--json")
    again = await move(disk.url, target.url, "--delete", "--json")

    assert [each.code for each in (done, emptied, moved, again)] == [1, 1, 0, 0]
    assert done.told == summary(complete=False, problems={"nothing_there": 1})
    assert done.err.startswith("FROM: nothing_there: FROM has no objects: is the URL right")
    assert done.err.count("\n") == 1


async def test_a_missing_bucket_is_reported_in_one_line(disk: Directory, bucket: Bucket) -> None:
    await fill(disk, ALL)

    done = await move_alone(disk.url, "s3://no-such-bucket/prefix")

    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "NoSuchBucket" in done.err


# ── what must not be begun


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("file:///a/b", "file:///a/b", "the same storage"),
        ("file:///a/b", "file:///a/./c/../b/", "the same storage"),
        ("file:///a/b", "file:///a/b/c", "one contains the other"),
        ("s3://bucket/a", "s3a://bucket/a/", "the same storage"),
        ("s3://bucket/a/b", "s3://bucket/a", "one contains the other"),
        ("s3://bucket", "s3://bucket/a", "one contains the other"),
        ("/a", "file:///b", "must begin with file:///"),
        ("file://a", "file:///b", "must begin with file:///"),
        ("ftp://hunter2/a", "file:///b", "must begin with file:///"),
        ("file:///b", "s3://key:hunter2@bucket/a", "holds credentials"),
        ("file:///b", "s3://[hunter2/a", "is not a URL"),
        ("file:///b", "s3://bucket/a?b=hunter2", "must have neither ? nor #"),
        ("s3://bucket/a#hunter2", "file:///b", "must have neither ? nor #"),
    ],
)
async def test_errors_of_arguments_show_no_secret(source: str, target: str, says: str) -> None:
    done = await move(source, target)

    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "hunter2" not in done.err


APART = [
    ("file:///a/b", "file:///a/bc"),
    ("file:///a", "s3://a"),
    ("s3://a/b", "s3://a/c"),
    ("s3://a/b", "s3://b/b"),
    ("s3://a", "gs://a"),
    ("az://box/a", "abfss://box@other.dfs.core.windows.net/a"),
]
ONE = [
    ("file:///a%20b", "file:///a b/c"),
    ("azure://a/b", "adl://a/b/c"),
    ("az://box/a", "abfss://box@account.dfs.core.windows.net/a"),
]


@pytest.mark.parametrize(("one", "other"), [*APART, *ONE])
def test_locations_are_distinguished(one: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")

    told = {overlap(locate(one), locate(other)), overlap(locate(other), locate(one))}

    assert told == {(one, other) in ONE}


async def test_a_storage_under_two_names_is_not_moved_into_itself(
    disk: Directory, there: InBucket, tmp_path: Path
) -> None:
    """A link is followed; a put reveals two addresses of one server."""
    await fill(disk, ALL)
    await asyncio.to_thread((tmp_path / "link").symlink_to, disk.root)
    linked = await move(disk.url, (tmp_path / "link").as_uri(), "--delete")
    await fill(there, ALL)
    file = tmp_path / "alias.env"
    alias = there.bucket.url.replace("127.0.0.1", "localhost")
    lines = (
        f"AWS_ENDPOINT_URL={alias}",
        "AWS_ACCESS_KEY_ID=k",
        "AWS_SECRET_ACCESS_KEY=s",
    )
    await asyncio.to_thread(file.write_text, "\n".join(lines))

    named = await move(there.url, there.url, "--delete", "--from-env", str(file))

    assert linked.code == 2
    assert (named.code, named.out) == (1, "")
    assert "the same storage" in named.err
    assert await kept(disk) == await kept(there) == ALL


async def test_the_storage_in_use_is_not_emptied(disk: Directory, there: InBucket) -> None:
    await fill(disk, ALL)

    refused = await move(disk.url, there.url, "--delete", storage_url=disk.url)
    done = await move(disk.url, there.url, "--delete", storage_url=there.url)

    assert refused.code == 2
    assert "STORAGE_URL is still FROM" in refused.err
    assert (done.code, await kept(disk)) == (0, {})


# ── what it looks like, and what it takes


async def test_a_terminal_shows_the_progress(disk: Directory, there: InBucket) -> None:
    await fill(disk, ALL)

    code, screen = await on_a_terminal(dict(os.environ), "storage", "move", disk.url, there.url, columns=120)

    assert code == 0
    assert re.search(r"Moving .*\d+/256", screen)
    assert f"{len(ALL)} copied (14.7 MB), 0 were there\n" in screen


async def test_many_large_objects_take_little_memory(disk: Directory, tmp_path: Path) -> None:
    await fill(disk, {key(bytes([number]) * 40_000_000): bytes([number]) * 40_000_000 for number in range(8)})
    target = Directory(tmp_path / "target")
    async with moving(disk.url, target.url) as process:
        peak = await asyncio.to_thread(_peak, process.pid)
        _, err = await process.communicate()

    assert process.returncode == 0, err
    assert len(await listed(open_storage(target.url))) == 8
    assert peak < 200


def _peak(pid: int) -> int:
    """Watch a process until it ends; return its peak of memory in MiB."""
    most = 0
    with suppress(OSError):
        while found := re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text()):
            most = max(most, int(found[1]) // 1024)
            time.sleep(0.01)
    return most
