"""Removal of objects: no reference without an object, and no object left that nobody names."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from hashlib import sha256

import asyncpg
import pytest
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from service.checks.removals import check_removals
from service.config.settings import Settings
from service.custody import receipts
from service.custody.objects import step
from service.custody.removal import remove
from service.errors import Transient
from service.jobs.attachments import mark
from service.jobs.loose_objects import give_up
from service.jobs.object_references import ObjectRemoved, write_references
from service.postgres.engine import connect, transaction
from service.resources import Resources, open_resources
from service.storage import objects
from tests.conftest import EMPTY, eventually
from tests.support.examples import examples
from tests.support.removing import (
    Download,
    download,
    finish,
    is_there,
    put,
    record,
    remove_object_files,
)
from tests.support.rows import add, is_waiting_for_a_lock
from tests.support.s3 import Bucket, Fault, refuses


async def kept(res: Resources, database: asyncpg.Connection, content: bytes = b"invoice") -> Download:
    """Make a completed e-mail with one file."""
    made = await download(res, database, content)
    await record(res, made)
    await finish(database, made.email_id)
    return made


async def purge(res: Resources, *emails: Download) -> int:
    """Remove e-mails; return the receipt."""
    receipt_id = await res.run(lambda conn: receipts.begin(conn, "erasure", "tests"))
    await res.run(lambda conn: remove(conn, [each.email_id for each in emails], receipt_id))
    return receipt_id


@asynccontextmanager
async def recording(res: Resources, given: Download) -> AsyncIterator[AsyncConnection]:
    """Record a file in a transaction that is committed after the block."""
    async with connect(res.engine) as conn, transaction(conn):
        assert await mark(conn, [given.update]) == [True]
        yield conn


async def states(database: asyncpg.Connection) -> list[str]:
    return [row["state"] for row in await database.fetch("SELECT state FROM objects_to_remove ORDER BY key")]


async def test_an_object_that_nobody_names_is_removed_and_counted(
    res: Resources, database: asyncpg.Connection
) -> None:
    gone, shared, other = (
        await kept(res, database),
        await kept(res, database, b"logo"),
        await kept(res, database, b"logo"),
    )

    receipt_id = await purge(res, gone, shared)
    await remove_object_files(res, database)

    assert (await is_there(res, gone.stored.key), await is_there(res, other.stored.key)) == (False, True)
    assert await states(database) == ["removed"]
    assert await database.fetchval("SELECT objects_removed FROM receipts WHERE id = $1", receipt_id) == 1


async def test_a_reference_written_before_the_request_is_seen_although_it_is_not_committed(
    res: Resources, database: asyncpg.Connection
) -> None:
    """That transaction began before the request, so it does not lock it: the barrier waits for it."""
    old = await kept(res, database)
    new = await download(res, database, b"invoice")

    async with recording(res, new):
        await purge(res, old)
        await remove_object_files(res, database)
        assert await states(database) == ["waiting"]
    await remove_object_files(res, database)

    assert await states(database) == []
    assert await is_there(res, new.stored.key)


async def test_a_reference_written_after_the_request_keeps_the_object(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Nothing else runs, so the barrier is gone at once: the lock on the request stops the remover."""
    old = await kept(res, database)
    new = await download(res, database, b"invoice")
    await purge(res, old)
    await step(res)
    await database.execute("UPDATE objects_to_remove SET barrier = '{}', state = 'waiting', due_at = now()")

    await put(res, b"invoice")
    async with recording(res, new):
        await database.execute("SELECT 1")
        await step(res)
        assert await states(database) == ["waiting"]
    await remove_object_files(res, database)

    assert (await states(database), await is_there(res, new.stored.key)) == ([], True)


async def test_no_reference_is_written_to_an_object_that_was_removed_after_the_put(
    res: Resources, database: asyncpg.Connection
) -> None:
    old = await kept(res, database)
    new = await download(res, database, b"invoice")
    await purge(res, old)
    await remove_object_files(res, database)

    with pytest.raises(Transient, match="Another attempt") as refused:
        await write_references(res.storage, partial(record, res, new))
    before = await database.fetchval("SELECT status FROM attachments")
    await put(res, b"invoice")
    await write_references(res.storage, partial(record, res, new))

    assert (refused.value.code, before) == ("object_removed", "pending")
    assert await database.fetchval("SELECT status FROM attachments") == "stored"
    assert await is_there(res, new.stored.key)


async def test_a_proof_is_worth_nothing_after_another_removal(
    res: Resources, database: asyncpg.Connection
) -> None:
    old, new, third = (
        await kept(res, database),
        *[await download(res, database, b"invoice") for _ in range(2)],
    )
    await purge(res, old)
    await remove_object_files(res, database)
    with pytest.raises(ObjectRemoved) as first:
        await record(res, new)
    proofs = {key: number for key, number in first.value.removals.items() if number}
    await put(res, b"invoice")
    await record(res, third, proofs)
    await finish(database, third.email_id)
    await purge(res, third)
    await remove_object_files(res, database)

    with pytest.raises(ObjectRemoved):
        await record(res, new, proofs)


async def test_a_reference_waits_for_the_remover_that_decides_at_this_moment(
    res: Resources, database: asyncpg.Connection
) -> None:
    old = await kept(res, database)
    new = await download(res, database, b"invoice")
    await purge(res, old)

    async with database.transaction():
        await database.execute("UPDATE objects_to_remove SET state = 'removing'")
        task = asyncio.create_task(record(res, new))
        await eventually(lambda: is_waiting_for_a_lock(database))
    with pytest.raises(ObjectRemoved) as refused:
        await task

    assert [*refused.value.removals.values()] == [None]


async def test_an_object_put_in_vain_is_removed_unless_a_row_names_it(
    res: Resources, database: asyncpg.Connection
) -> None:
    named, alone = await kept(res, database, b"named"), await put(res, b"alone")

    await res.run(lambda conn: give_up(conn, [named.stored, alone]))
    await remove_object_files(res, database)

    assert (await is_there(res, named.stored.key), await is_there(res, alone.key)) == (True, False)


@pytest.mark.parametrize("in_a_list", [True, False])
async def test_a_locked_object_is_a_state_with_a_reason_and_is_asked_for_again(
    settings: Settings,
    database: asyncpg.Connection,
    bucket: Bucket,
    in_a_list: bool,  # noqa: FBT001 a parameter
) -> None:
    settings = settings.model_copy(update={"storage_url": f"s3://{bucket.name}"})
    async with open_resources(settings) as res:
        old = await kept(res, database)
        await purge(res, old)
        answer = refuses_in_a_list if in_a_list else refuses(403, "AccessDenied")
        bucket.faults = [Fault(answer, ("post", "delete"), times=99)]
        await remove_object_files(res, database)
        row = await database.fetchrow(
            "SELECT state, reason, due_at > now() + '23 hours' FROM objects_to_remove"
        )
        check = await check_removals(res)
        bucket.faults = []
        await database.execute("UPDATE objects_to_remove SET due_at = now()")
        await remove_object_files(res, database)

        assert row is not None
        assert tuple(row) == ("locked", "the storage refuses to remove the object: AccessDenied", True)
        assert (check.ok, check.found) == (None, "1 object cannot be removed")
        assert (await check_removals(res)).ok
        assert (await states(database), await bucket.objects()) == (["removed"], {})


async def refuses_in_a_list(_: Bucket, request: web.Request) -> web.StreamResponse:
    """Refuse the removal of an object as S3 does: inside a list, with the status 200."""
    key = re.search(r"<Key>(.+?)</Key>", (await request.read()).decode())
    assert key
    error = f"<Error><Key>{key[1]}</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    return web.Response(content_type="application/xml", text=f"<DeleteResult>{error}</DeleteResult>")


async def test_an_outage_of_the_storage_refuses_references_until_the_removal_is_repeated(
    settings: Settings, database: asyncpg.Connection, bucket: Bucket
) -> None:
    settings = settings.model_copy(update={"storage_url": f"s3://{bucket.name}"})
    async with open_resources(settings) as res:
        old, new = await kept(res, database), await download(res, database, b"invoice")
        await purge(res, old)
        bucket.faults = [Fault(refuses(400, "InvalidRequest"), ("post", "delete"), times=99)]
        await step(res)
        await database.execute("UPDATE objects_to_remove SET due_at = now()")
        await step(res)
        with pytest.raises(ObjectRemoved):
            await record(res, new)
        bucket.faults = []
        await remove_object_files(res, database)

        assert (await states(database), await bucket.objects()) == (["removed"], {})


class World:
    """Random events on e-mails that share few contents, and what must be true after each of them."""

    def __init__(self, res: Resources, database: asyncpg.Connection, seed: int) -> None:
        self.res, self.database, self.random = res, database, random.Random(seed)
        self.running: list[Download] = []  # put, and not recorded yet
        self.kept: dict[int, Download] = {}
        self.held: set[int] = set()
        self.open: list[tuple[Download, AsyncExitStack]] = []  # recorded, and not committed yet

    async def event(self) -> None:
        events = [
            self.arrive,
            self.record,
            self.begin,
            self.commit,
            self.hold,
            self.release,
            self.remove,
            self.remove,
        ]
        await self.random.choice([*events, self.step, self.step])()
        await self.check()

    async def arrive(self) -> None:
        content = self.random.choice([b"logo", b"invoice", b"letter"])
        self.running.append(await download(self.res, self.database, content))

    async def record(self) -> None:
        if self.running:
            made = self.running.pop(self.random.randrange(len(self.running)))
            try:
                await write_references(self.res.storage, partial(record, self.res, made))
            except Transient:  # another attempt: it puts the content again
                content = next(
                    each
                    for each in (b"logo", b"invoice", b"letter")
                    if sha256(each).hexdigest() == made.stored.sha256
                )
                await put(self.res, content)
                self.running.append(made)
            else:
                await self.keep(made)

    async def begin(self) -> None:
        if self.running and not self.open:
            made = self.running.pop()
            stack = AsyncExitStack()
            conn = await stack.enter_async_context(connect(self.res.engine))
            await stack.enter_async_context(transaction(conn))
            if await mark(conn, [made.update]) == [True]:
                self.open.append((made, stack))
            else:
                await stack.aclose()
                self.running.append(made)

    async def commit(self) -> None:
        for made, stack in self.open:
            await stack.aclose()
            await self.keep(made)
        self.open.clear()

    async def keep(self, made: Download) -> None:
        await finish(self.database, made.email_id)
        self.kept[made.email_id] = made

    async def hold(self) -> None:
        if self.kept:
            email_id = self.random.choice([*self.kept])
            number = await add(
                self.database, "holds", name=f"h{self.random.random()}", reason="x", set_by="tests"
            )
            await add(self.database, "held_emails", email_id=email_id, hold_id=number)
            self.held.add(email_id)

    async def release(self) -> None:
        await self.database.execute("UPDATE holds SET released_at = now()")
        self.held.clear()

    async def remove(self) -> None:
        some = self.random.sample([*self.kept], min(len(self.kept), self.random.choice([1, 2])))
        await purge(self.res, *(self.kept[each] for each in some))
        for email_id in {*some} - self.held:
            del self.kept[email_id]

    async def step(self) -> None:
        await self.database.execute(
            "UPDATE objects_to_remove SET due_at = now() WHERE state IN ('waiting', 'removing')"
        )
        await step(self.res)

    async def check(self) -> None:
        rows = await self.database.fetch(
            "SELECT email_id, object_key FROM attachments WHERE status = 'stored'"
        )
        assert {row["email_id"] for row in rows} == self.kept.keys()
        for key in {row["object_key"] for row in rows}:
            assert await is_there(self.res, key), key


@pytest.mark.timeout(600)
async def test_random_events_lose_no_shared_object_and_nothing_held_and_leave_none_behind(
    res: Resources, database: asyncpg.Connection
) -> None:
    for seed in range(examples(6)):
        world = World(res, database, seed)
        for _ in range(40):
            await world.event()
        await world.commit()
        while world.running:
            await world.record()
        await remove_object_files(res, database)
        await world.check()
        named = {each.stored.key for each in world.kept.values()}
        stored = {each.key async for each in objects.listing(res.storage, "sha256/")}
        assert stored == named, seed
        for key in stored:
            await objects.remove(res.storage, key)
        await database.execute(EMPTY)
