"""Move all objects from one storage to another; after a kill, a new start continues."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256

from service.errors import HoldfastError, Permanent, Transient
from service.storage import objects
from service.storage.interface import ALL, RANGES
from service.storage.objects import Listed, Storage
from service.storage.spool import object_key

_AT_ONCE = 8  # each reads 2 MiB ahead, and has a temporary file for larger objects
_MOST_FAILURES = 20  # after this many failures in a row, the storage is the cause and not the objects


@dataclass
class MoveProgress:
    """Progress of a move: objects, and how many of the 256 ranges of keys were begun."""

    copied: int = 0
    copied_bytes: int = 0
    skipped: int = 0  # in the target with the right size; with `delete`, with the right hash
    removed: int = 0
    problems: Counter[str] = field(default_factory=Counter)  # by code
    ranges: int = 0
    stopped: str | None = None  # why the move ended early

    @property
    def is_complete(self) -> bool:
        return self.stopped is None and not self.problems


@dataclass
class Callbacks:
    """Callbacks of a move: the progress after each object, and the key and error of each problem."""

    progress: Callable[[MoveProgress], None]
    problem: Callable[[str, HoldfastError], None]


async def move(source: Storage, target: Storage, watch: Callbacks, *, delete: bool = False) -> MoveProgress:
    """Copy the objects that the target lacks; with `delete`, remove verified objects from the source.

    An object of the right size in the target's listing is not copied again. Delete only if no process writes
    to either storage: a put that finds its object in the source would rely on it. Raises HoldfastError if the
    move cannot begin.
    """
    await objects.check(target)
    if delete:
        await _check_different(source, target)
    moving = _Move(source, target, watch, delete)
    async with asyncio.TaskGroup() as group:
        for prefix in await _ranges(source, target):
            await moving.take(prefix, group)
            if moving.done.stopped:
                break
            moving.done.ranges += len(RANGES) if prefix == ALL else 1
    if not moving.done.stopped:
        await moving.take_heads()
    moving.judge()
    watch.progress(moving.done)
    return moving.done


async def _ranges(source: Storage, target: Storage) -> Sequence[str]:
    """Return the ranges of keys to take in turn: a single one if neither storage has many objects."""
    try:
        few = await objects.ranges(source)
        return few if few == await objects.ranges(target) else RANGES
    except HoldfastError:  # reported with the range that cannot be listed
        return RANGES


async def _check_different(source: Storage, target: Storage) -> None:
    """Raise Permanent if both are one storage: links and names of servers may hide that."""

    async def marker() -> AsyncIterator[bytes]:
        yield b"holdfast storage move " + secrets.token_bytes(16)

    stored = await objects.put(target, marker(), None)
    try:
        await objects.stat(source, stored.key)
    except Permanent:
        return
    finally:
        with suppress(HoldfastError):  # we may lack the right, and the marker belongs to no e-mail
            await objects.remove(target, stored.key)
    raise Permanent("same_storage", "FROM and TO are the same storage; nothing was moved")


@dataclass
class _Move:
    source: Storage
    target: Storage
    watch: Callbacks
    delete: bool
    done: MoveProgress = field(default_factory=MoveProgress)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    _in_a_row: int = 0
    _found_any: bool = False  # in the source
    _found_any_there: bool = False

    async def take(self, prefix: str, group: asyncio.TaskGroup) -> None:
        """Start the moves of all objects of a range, a few at a time; hold only the target's keys of this range in memory."""
        try:
            there = {each.key: each.size async for each in objects.listing(self.target, prefix)}
            self._found_any_there |= bool(there)
            async for each in objects.listing(self.source, prefix):
                self._found_any = True
                if there.get(each.key) == each.size and not self.delete:
                    self.done.skipped += 1
                    continue
                await self._slots.acquire()
                if self.done.stopped:
                    self._slots.release()
                    return
                task = group.create_task(self._try(each, is_there=there.get(each.key) == each.size))
                task.add_done_callback(lambda _: self._slots.release())
        except HoldfastError as exc:
            self._note(prefix, exc)
            if not self.done.ranges:  # no listing has succeeded yet
                self.done.stopped = exc.message

    async def take_heads(self) -> None:
        """Copy the heads of the evidence log, which are few and small; one that TO has otherwise is a problem, and stays."""
        try:
            there = {*await objects.heads(self.target)}
            here = await objects.heads(self.source)
        except HoldfastError as exc:
            self._note("heads/", exc)
            return
        for key in here:
            try:
                await self._take_head(key, is_there=key in there)
            except HoldfastError as exc:
                self._note(key, exc)

    async def _take_head(self, key: str, *, is_there: bool) -> None:
        content = await objects.read_head(self.source, key)
        if not is_there:
            await objects.keep_head(self.target, key, content)
        # Also after a copy: a storage keeps what it has.
        if await objects.read_head(self.target, key) != content:
            raise Permanent("object_damaged", f"the head {key} in TO is another one; the one in FROM stays")
        if is_there:
            self.done.skipped += 1
        else:
            self.done.copied += 1
            self.done.copied_bytes += len(content)
        if self.delete:
            await objects.remove_head(self.source, key)

    def judge(self) -> None:
        """Report a problem if there was nothing to move: FROM may be mistyped, and TO would be used while empty."""
        is_emptied = self.delete and self._found_any_there  # an earlier move has emptied the source
        if not self._found_any and not is_emptied and self.done.is_complete:
            doubt = (
                "is the URL right, with its prefix? If nothing was ever stored there, TO can be used at once"
            )
            self._note("FROM", Permanent("nothing_there", f"FROM has no objects: {doubt}"))

    async def _try(self, each: Listed, *, is_there: bool) -> None:
        try:
            if is_there:
                self.done.skipped += 1
            else:
                await self._copy(each)
            if self.delete:
                await self._verify(
                    each.key
                )  # also after a copy: the put may have relied on an object that another process put
                await objects.remove(self.source, each.key)
                self.done.removed += 1
        except HoldfastError as exc:
            self._note(each.key, exc)
        else:
            self._in_a_row = 0
        self.watch.progress(self.done)

    async def _verify(self, key: str) -> None:
        """Raise Permanent unless the hash of the target's object is that of its key."""
        found, _ = await objects.digest(self.target, key)
        if object_key(found) != key:
            raise Permanent("object_damaged", f"the object {key} in TO is damaged; the one in FROM stays")

    async def _copy(self, each: Listed) -> None:
        try:
            opened = await objects.open(self.source, each.key)
            await objects.put(self.target, _checked(opened.chunks, each.key), None)
        except Permanent as exc:
            if exc.code == "object_missing" and await self._was_moved(each):
                self.done.skipped += 1
                return
            raise
        if await objects.stat(self.target, each.key) != opened.size:
            raise Transient("storage_unavailable", f"the object {each.key} is not complete in TO")
        self.done.copied += 1
        self.done.copied_bytes += opened.size

    async def _was_moved(self, each: Listed) -> bool:
        """Say whether a vanished object is in the target: another move may have been faster."""
        try:
            return await objects.stat(self.target, each.key) == each.size
        except Permanent:
            return False

    def _note(self, what: str, error: HoldfastError) -> None:
        self.done.problems[error.code] += 1
        self.watch.problem(what, error)
        if isinstance(error, Transient):
            self._in_a_row += 1
        if error.code == "storage_full" or self._in_a_row >= _MOST_FAILURES:
            self.done.stopped = error.message


async def _checked(chunks: AsyncIterator[bytes], key: str) -> AsyncIterator[bytes]:
    """Pass bytes on; at the end, before anything is stored, raise Permanent if their hash is not that of the key."""
    found = sha256()
    async for chunk in chunks:
        await asyncio.to_thread(found.update, chunk)
        yield chunk
    if object_key(found.hexdigest()) != key:
        raise Permanent("object_damaged", f"the object {key} in FROM is damaged, and was not copied")
