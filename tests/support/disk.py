"""Drills for a directory of objects, each in its own process: `python -m tests.support.disk DRILL DIRECTORY`."""

import asyncio
import fcntl
import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from signal import SIGKILL
from typing import IO, Any

from service.errors import HoldfastError
from service.storage import objects
from service.storage.disk import Disk
from tests.support.places import chunks, key

SMALL = b"%PDF-1.4 " + bytes(5000)
LARGE = b"%PDF-1.4 " + bytes(3 * 1024**2)
MANY = [bytes([number]) * (1024**2 - 5 + number) for number in range(10)]
NOT_ALLOWED = 77


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def hold(root: Path) -> None:
    """Pause in the middle of a put until a line arrives on standard input."""

    async def chunks() -> AsyncIterator[bytes]:
        yield LARGE
        _say("spooled")
        await asyncio.to_thread(sys.stdin.readline)

    asyncio.run(objects.put(Disk(root), chunks(), None))


def die_anywhere(root: Path) -> None:
    """Kill a put at each of its file operations and print their number; the next put has to clean up."""
    amiss: list[object] = []
    steps = 0
    for content in (SMALL, LARGE):
        for step in count():
            place = root / f"{len(content)}-{step}"
            killed = _forked(partial(_put_and_die, place, content, step))
            _forked(partial(_put, Disk(place), b"next"))
            names = files(place)
            if names not in ([key(b"next")], sorted([key(b"next"), key(content)])):
                amiss.append([step, names])
            if key(content) in names and (place / key(content)).read_bytes() != content:
                amiss.append([step, "torn"])
            if not killed:
                break
            steps += 1
    _say([steps, amiss])


def lose_a_race(root: Path, way: str) -> None:
    """Put while another process removes the new spool file as a leftover before it is locked."""
    taken: list[IO[bytes]] = []

    def somebody(event: str, _: object) -> None:
        if event == "fcntl.flock" and not taken:
            (path,) = (root / ".spool").iterdir()
            taken.append(path.open("r+b"))
            fcntl.flock(taken[0], fcntl.LOCK_EX)
            if way == "removed":
                path.unlink()
                taken[0].close()

    sys.addaudithook(somebody)
    _put(Disk(root), LARGE)
    taken[0].close()
    _say(len(taken))


def put_many(root: Path) -> None:
    async def run() -> int:
        store = Disk(root)
        stored = [
            await asyncio.gather(*(objects.put(store, chunks(c), None) for c in MANY)) for _ in range(5)
        ]
        return sum(each.size for puts in stored for each in puts)

    _say(asyncio.run(run()))


def lack_rights(root: Path) -> None:
    store = Disk(root)
    _put(store, LARGE)

    def mode(name: str, number: int) -> Callable[[], None]:
        return lambda: (root / name).chmod(number)

    _tell(
        store,
        {
            ".spool": (mode(".spool", 0o500), mode(".spool", 0o700)),
            "sha256": (mode("sha256", 0o000), mode("sha256", 0o700)),
            "object": (mode(key(LARGE), 0o000), mode(key(LARGE), 0o600)),
        },
    )


def lack_space(root: Path) -> None:
    store = Disk(root)
    _put(store, LARGE)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def limit(size: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    _tell(store, {"limit": (limit(1), limit(hard))})


def lack_a_disk(root: Path) -> None:
    """Fill a small mounted disk, and make it read-only."""
    root.mkdir()

    def mount(*options: str) -> Callable[[], None]:
        return lambda: _mount("-o", ",".join(options), "tmpfs", str(root))

    mount("size=8m")()
    store = Disk(root)
    _put(store, LARGE)
    filler = root / "filler"
    _tell(
        store,
        {
            "full": (lambda: _fill(filler), filler.unlink),
            "read-only": (mount("remount", "ro"), mount("remount", "rw")),
        },
    )


def _tell(store: Disk, faults: dict[str, tuple[Callable[[], object], Callable[[], object]]]) -> None:
    """Print the outcome of each verb during each fault. Check that no partial file stays and that a later put works."""
    told: dict[str, object] = {}
    for number, (name, (begin, end)) in enumerate(faults.items()):
        contents = [content + bytes([number]) for content in (SMALL, LARGE)]
        begin()
        told[name] = {
            "put": [_outcome(objects.put(store, chunks(content), None)) for content in contents],
            "open": [_outcome(objects.open(store, key(LARGE)))],
            "check": [_outcome(objects.check(store))],
        }
        end()
        assert not list((store.root / ".spool").iterdir()), name
        for content in contents:
            _put(store, content)
            assert (store.root / key(content)).read_bytes() == content, name
            (store.root / key(content)).unlink()
    _say(told)


def _say(value: object) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def _outcome(verb: Coroutine[Any, Any, object]) -> tuple[str, str]:
    try:
        asyncio.run(verb)
    except HoldfastError as exc:
        return exc.code, exc.message
    return "done", ""


def _put(store: Disk, content: bytes) -> None:
    asyncio.run(objects.put(store, chunks(content), None))


def _put_and_die(root: Path, content: bytes, step: int) -> None:
    steps = count()

    def hook(event: str, _: object) -> None:
        # https://docs.python.org/3/library/audit_events.html
        if event.startswith(("os.", "open", "fcntl.", "tempfile.")) and next(steps) == step:
            os.kill(os.getpid(), SIGKILL)

    sys.addaudithook(hook)
    _put(Disk(root), content)


def _forked(work: Callable[[], None]) -> bool:
    """Run `work` in a forked process; return whether it was killed."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, -SIGKILL}
    return code != 0


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def _mount(*arguments: str) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", *arguments], check=False, capture_output=True).returncode:
        sys.exit(NOT_ALLOWED)


if __name__ == "__main__":
    drills = (hold, die_anywhere, lose_a_race, put_many, lack_rights, lack_space, lack_a_disk)
    drill: Callable[..., None] = {drill.__name__: drill for drill in drills}[sys.argv[1]]
    drill(Path(sys.argv[2]), *sys.argv[3:])
