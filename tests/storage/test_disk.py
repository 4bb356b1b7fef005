"""A directory of objects under kills, many processes and failing disks: only whole objects remain."""

import asyncio
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service import group_commit
from service.errors import Transient
from service.storage import disk
from service.storage import objects as storage
from service.storage.disk import Disk
from service.storage.objects import StoredObject
from tests.conftest import ROOT
from tests.support.disk import LARGE, MANY, NOT_ALLOWED, SMALL, files
from tests.support.places import chunks, key, listed

AS_ROOT = os.geteuid() == 0


class Syncs:
    """Counts the calls of fsync, and those that run at once; each takes so many seconds more."""

    def __init__(self) -> None:
        self.number = self.most = self._running = 0
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._fsync = os.fsync

    def __call__(self, descriptor: int) -> None:
        with self._lock:
            self.number += 1
            self._running += 1
            self.most = max(self.most, self._running)
        time.sleep(self.seconds)
        self._fsync(descriptor)
        with self._lock:
            self._running -= 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    counted = Syncs()
    monkeypatch.setattr(os, "fsync", counted)
    return counted


@asynccontextmanager
async def drill(name: str, root: Path, *more: str, inside: tuple[str, ...] = ()) -> AsyncIterator[Process]:
    command = (*inside, sys.executable, "-m", "tests.support.disk", name, str(root), *more)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def said(name: str, root: Path, *more: str, inside: tuple[str, ...] = ()) -> Any:
    async with drill(name, root, *more, inside=inside) as process:
        output, _ = await process.communicate()
    if process.returncode == NOT_ALLOWED:
        pytest.skip("we may not mount here")
    assert process.returncode == 0
    return json.loads(output)


async def spooled(process: Process) -> None:
    assert process.stdout
    assert json.loads(await process.stdout.readline()) == "spooled"


async def test_leftovers_of_a_killed_process_are_gone_after_the_next_put(root: Path) -> None:
    async with drill("hold", root) as process:
        await spooled(process)
    (leftover,) = await asyncio.to_thread(files, root)

    await storage.put(Disk(root), chunks(SMALL), None)

    assert leftover.startswith(".spool/")
    assert await asyncio.to_thread(files, root) == [key(SMALL)]


async def test_leftovers_of_a_killed_process_are_removed_beside_a_living_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Disk(root)
    await storage.put(store, chunks(SMALL), None)
    async with drill("hold", root) as process:
        await spooled(process)
    assert len(await asyncio.to_thread(files, root)) == 2
    monkeypatch.setattr(disk, "_CLEAN_SECONDS", 0)

    await storage.put(store, chunks(LARGE), None)

    assert await asyncio.to_thread(files, root) == sorted([key(SMALL), key(LARGE)])


async def test_a_replaced_volume_is_written_to(root: Path) -> None:
    store = Disk(root)
    for _ in range(2):
        await storage.put(store, chunks(SMALL), None)
        await asyncio.to_thread(shutil.rmtree, root / "sha256")
    await asyncio.to_thread(shutil.rmtree, root)

    await storage.put(store, chunks(SMALL), None)

    assert await asyncio.to_thread(files, root) == [key(SMALL)]


@pytest.mark.parametrize("content", [SMALL, LARGE])
async def test_an_empty_mount_point_is_not_written_to(root: Path, content: bytes) -> None:
    """What is put there would be hidden once the volume is mounted."""
    elsewhere = root.with_name("elsewhere")
    answers = [True]

    async def is_first() -> bool:
        return answers.pop()

    store = Disk(root, is_first)
    await storage.put(store, chunks(content), None)
    await asyncio.to_thread(root.rename, elsewhere)
    await asyncio.to_thread(root.mkdir)
    refused: list[Transient] = []
    for each in (store, Disk(root, is_first), Disk(root, is_first)):
        answers.append(False)
        for _ in range(2):  # one that has put before sees at its first put that the volume is away
            with pytest.raises(Transient) as caught:
                await storage.put(each, chunks(b"other" + content), None)
            refused.append(caught.value)
            answers[:] = [False]
    assert {each.code for each in refused} == {"storage_unavailable"}
    assert "may not be mounted" in refused[-1].message
    with pytest.raises(Transient):
        await storage.check(store)
    with pytest.raises(Transient):
        await storage.remove(store, key(content))
    assert await asyncio.to_thread(lambda: [*root.iterdir()]) == []

    await asyncio.to_thread(root.rmdir)
    await asyncio.to_thread(elsewhere.rename, root)
    await storage.put(store, chunks(b"other" + content), None)

    assert await asyncio.to_thread(files, root) == sorted([key(content), key(b"other" + content)])


async def test_a_copy_without_the_spool_is_written_to(root: Path) -> None:
    await storage.put(Disk(root), chunks(SMALL), None)
    await asyncio.to_thread(shutil.rmtree, root / ".spool")

    async def is_first() -> bool:
        raise AssertionError

    await storage.put(Disk(root, is_first), chunks(LARGE), None)

    assert await asyncio.to_thread(files, root) == sorted(map(key, [SMALL, LARGE]))


async def test_nothing_is_known_of_an_empty_directory_while_postgres_is_away(root: Path) -> None:
    async def is_first() -> bool:
        raise Transient("database_unavailable", "Postgres cannot be reached.")

    for tried in (storage.check, storage.probe):
        with pytest.raises(Transient, match="Postgres"):
            await tried(Disk(root, is_first))
    assert not await asyncio.to_thread(root.exists)


async def test_processes_may_begin_at_the_same_moment(root: Path) -> None:
    async def is_first() -> bool:
        await storage.put(Disk(root), chunks(SMALL), None)
        return False

    await storage.put(Disk(root, is_first), chunks(LARGE), None)

    assert await asyncio.to_thread(files, root) == sorted(map(key, [SMALL, LARGE]))


async def test_a_put_that_fails_harms_none_that_is_written_with_it(root: Path) -> None:
    store = Disk(root)
    await storage.put(store, chunks(SMALL), None)
    contents = [b"%d" % number for number in range(40)]
    broken = {key(content)[:9] for content in contents[::8]} - {key(SMALL)[:9]}
    for directory in broken:
        await asyncio.to_thread((root / directory).touch)

    results = await asyncio.gather(
        *(storage.put(store, chunks(content), None) for content in contents), return_exceptions=True
    )

    good = {key(content) for content in contents if key(content)[:9] not in broken}
    assert broken
    assert {key(c) for c, result in zip(contents, results, strict=True) if isinstance(result, Transient)} == {
        key(content) for content in contents
    } - good
    assert {result.key for result in results if isinstance(result, StoredObject)} == good
    assert set(await asyncio.to_thread(files, root)) == {key(SMALL), *good, *broken}


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("damage", [bytes, lambda size: bytes(size - 1)])
async def test_a_put_replaces_a_damaged_object(
    root: Path, content: bytes, damage: Callable[[int], bytes]
) -> None:
    store = Disk(root)
    stored = await storage.put(store, chunks(content), None)
    await asyncio.to_thread((root / stored.key).write_bytes, damage(len(content)))

    again = await storage.put(store, chunks(content), None)

    assert (again.key, await asyncio.to_thread((root / again.key).read_bytes)) == (stored.key, content)
    assert await asyncio.to_thread(files, root) == [key(content)]


async def test_a_put_leaves_an_intact_object_alone(root: Path) -> None:
    store = Disk(root)
    stored = await storage.put(store, chunks(SMALL), None)
    before = await asyncio.to_thread(os.stat, root / stored.key)

    await storage.put(store, chunks(SMALL), None)

    assert (await asyncio.to_thread(os.stat, root / stored.key)).st_ino == before.st_ino


async def test_puts_at_once_share_the_syncs_of_a_directory(root: Path, syncs: Syncs) -> None:
    store = Disk(root)
    contents = [content for number in range(9000) if key(content := b"%d" % number)[:9] == "sha256/00"]
    await storage.put(store, chunks(contents.pop()), None)
    assert len(contents) > 20
    syncs.number = 0

    await asyncio.gather(*(storage.put(store, chunks(content), None) for content in contents))

    assert len(contents) < syncs.number < 1.5 * len(contents)


async def test_a_slow_disk_syncs_many_files_at_once(root: Path, syncs: Syncs) -> None:
    store = Disk(root)
    syncs.seconds = 2 * disk._SLOW_SYNC_SECONDS
    for beginning in (0, 1000):
        contents = [b"%d" % number for number in range(beginning, beginning + 60)]
        await asyncio.gather(*(storage.put(store, chunks(content), None) for content in contents))

    assert syncs.most > group_commit.LANES


async def test_more_large_files_than_threads_are_written_at_once(root: Path, syncs: Syncs) -> None:
    """Each waits for its syncs in a thread, so that these need others."""
    store = Disk(root)
    syncs.seconds = 2 * disk._SLOW_SYNC_SECONDS

    async with asyncio.timeout(60):
        for beginning in (0, 100):
            contents = [LARGE + b"%d" % number for number in range(beginning, beginning + disk._THREADS + 8)]
            await asyncio.gather(*(storage.put(store, chunks(content), None) for content in contents))


async def test_the_spool_file_of_a_living_process_stays(root: Path) -> None:
    async with drill("hold", root) as process:
        await spooled(process)
        (spool,) = await asyncio.to_thread(files, root)
        await asyncio.to_thread(os.utime, root / spool, (0, 0))

        await storage.put(Disk(root), chunks(SMALL), None)
        await storage.check(Disk(root))
        assert await asyncio.to_thread(files, root) == [spool, key(SMALL)]

        await process.communicate(b"go on\n")

    assert process.returncode == 0
    assert await asyncio.to_thread(files, root) == sorted([key(LARGE), key(SMALL)])


async def test_a_kill_at_any_point_leaves_a_whole_object_or_a_removable_leftover(root: Path) -> None:
    steps, amiss = await said("die_anywhere", root)

    assert steps > 20
    assert amiss == []


@pytest.mark.parametrize("way", ["removed", "locked"])
async def test_a_spool_file_removed_as_a_leftover_is_created_again(root: Path, way: str) -> None:
    assert await said("lose_a_race", root, way) == 1

    await storage.put(Disk(root), chunks(SMALL), None)
    assert await asyncio.to_thread(files, root) == sorted([key(LARGE), key(SMALL)])


async def test_a_disk_signs_no_addresses(root: Path) -> None:
    store = Disk(root)
    await storage.put(store, chunks(SMALL), None)

    assert await storage.sign(store, key(SMALL), method="GET", expires=timedelta(minutes=5)) is None


async def test_a_disk_without_objects_may_be_an_unmounted_volume(root: Path) -> None:
    """If it were taken for empty, all objects would count as lost."""
    store = Disk(root)

    with pytest.raises(Transient, match="may not be mounted"):
        await listed(store)
    await storage.check(store)

    assert await listed(store) == []


async def test_twenty_large_puts_stay_small_in_memory(root: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TWENTY_PUTS, root.as_uri()), cwd=ROOT, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()

    stored, max_rss_mib = map(int, output.split())
    assert stored == 20
    assert max_rss_mib < 256


async def test_many_processes_put_at_once_while_others_are_killed(root: Path) -> None:
    async def killed() -> None:
        async with drill("hold", root) as process:
            await spooled(process)

    sizes = await asyncio.gather(*(said("put_many", root) for _ in range(4)), *(killed() for _ in range(4)))
    await storage.put(Disk(root), chunks(SMALL), None)

    assert sizes[:4] == [5 * sum(map(len, MANY))] * 4
    assert await asyncio.to_thread(files, root) == sorted(map(key, [SMALL, *MANY]))


def _replace(path: Path) -> None:
    """Replace a directory by a file."""
    shutil.rmtree(path)
    path.touch()


def _replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAKS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "the root is gone": (shutil.rmtree, {"stat", "open", "list", "remove"}),
    "the root is a file": (_replace, {"put", "stat", "open", "check", "list", "remove"}),
    "the spool is a file": (lambda root: _replace(root / ".spool"), {"put", "check"}),
    "the objects' directory is a file": (
        lambda root: _replace(root / "sha256"),
        {"put", "stat", "open", "list", "remove"},
    ),
    "the object's directory is a file": (
        lambda root: _replace((root / key(LARGE)).parent),
        {"put", "stat", "open", "list", "remove"},
    ),
    "the object is a directory": (
        lambda root: _replace_by_directory(root / key(LARGE)),
        {"put", "stat", "open", "remove"},
    ),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_directory_is_transient_and_named(root: Path, name: str) -> None:
    store = Disk(root)
    await storage.put(store, chunks(LARGE), None)
    break_it, broken = BREAKS[name]
    await asyncio.to_thread(break_it, root)

    failed = {}
    verbs: dict[str, Coroutine[Any, Any, object]] = {
        "stat": storage.stat(store, key(LARGE)),
        "open": storage.open(store, key(LARGE)),
        "list": listed(store),
        "remove": storage.remove(store, key(LARGE)),
        "check": storage.check(store),
        "put": storage.put(store, chunks(LARGE), None),
    }
    for verb, run in verbs.items():
        try:
            await run
        except Transient as exc:
            failed[verb] = exc
    left = await asyncio.to_thread(files, root / ".spool")

    assert set(failed) == broken
    assert {error.code for error in failed.values()} == {"storage_unavailable"}
    assert all(str(root) in error.message for error in failed.values())
    assert left == []

    await asyncio.to_thread(lambda: root.unlink() if root.is_file() else shutil.rmtree(root))
    await storage.put(store, chunks(LARGE), None)
    assert await asyncio.to_thread(files, root) == [key(LARGE)]


@pytest.mark.skipif(AS_ROOT and not shutil.which("setpriv"), reason="root has every right")
async def test_missing_rights_are_reported(root: Path) -> None:
    # Root ignores the rights of files, unless it drops this capability.
    inside = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if AS_ROOT else ()
    told = _numbered(await said("lack_rights", root, inside=inside))

    done, denied = ["done", 0], ["storage_unavailable", errno.EACCES]
    assert told == {
        ".spool": {"put": [denied, denied], "open": [done], "check": [denied]},
        "sha256": {"put": [denied, denied], "open": [denied], "check": [done]},
        "object": {"put": [done, done], "open": [denied], "check": [done]},
    }


async def test_a_limit_on_the_size_of_files_is_a_full_disk(root: Path) -> None:
    told = await said("lack_space", root)

    done, full = ["done", 0], ["storage_full", errno.EFBIG]
    assert _numbered(told) == {"limit": {"put": [full, full], "open": [done], "check": [full]}}
    assert all(str(root) in message for _, message in told["limit"]["put"])


@pytest.mark.skipif(not shutil.which("unshare"), reason="it takes Linux to have mounts of one's own")
async def test_a_full_disk_and_a_read_only_disk_are_reported(root: Path) -> None:
    command = ("unshare", "--user", "--map-root-user", "--mount")
    allowed = await asyncio.create_subprocess_exec(*command, "true", stderr=DEVNULL)
    if await allowed.wait():
        pytest.skip("we may have no mounts of our own here")

    told = _numbered(await said("lack_a_disk", root, inside=command))

    done, full, read_only = ["done", 0], ["storage_full", errno.ENOSPC], ["storage_unavailable", errno.EROFS]
    assert told == {
        "full": {"put": [full, full], "open": [done], "check": [full]},
        "read-only": {"put": [read_only, read_only], "open": [done], "check": [read_only]},
    }


def _numbered(told: dict[str, dict[str, list[tuple[str, str]]]]) -> dict[str, dict[str, list[list[object]]]]:
    """Replace the message of an error by its number."""

    def numbered(code: str, message: str) -> list[object]:
        found = re.match(r"storage: \w+: \[Errno (\d+)\]", message)
        return [code, int(found[1]) if found else 0]

    return {
        fault: {verb: [numbered(*outcome) for outcome in outcomes] for verb, outcomes in verbs.items()}
        for fault, verbs in told.items()
    }


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
