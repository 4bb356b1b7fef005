"""The sweep: jobs with lost messages and of dead workers are dispatched again."""

import asyncio
from contextlib import suppress

import asyncpg

from service.capture.attempt import process
from service.capture.sweep import sweep
from service.jobs.waiting import Job
from service.local.zendesk.stand_in import Fault, Zendesk
from service.queue.arq_queue import ArqQueue
from service.resources import Resources, background
from tests.conftest import Client, eventually
from tests.support.files import PDF


async def queued_in_redis(res: Resources) -> int:
    return int(await res.redis.zcard("arq:queue"))


async def test_a_job_with_a_lost_message_is_dispatched_again(
    client: Client, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    email_id = (await client.send(zendesk.payload()))["email_id"]
    await client.until(email_id, "queued")
    await res.redis.flushall()
    await database.execute("UPDATE incoming_emails SET due_at = now()")

    assert await sweep(res) == 1
    await res.dispatcher.drain()

    assert await queued_in_redis(res) == 1


async def test_dispatching_a_queued_job_again_adds_no_message(
    client: Client, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    email_id = (await client.send(zendesk.payload()))["email_id"]
    await client.until(email_id, "queued")
    for _ in range(3):
        await database.execute("UPDATE incoming_emails SET due_at = now()")
        await sweep(res)
    await res.dispatcher.drain()

    assert await queued_in_redis(res) == 1


async def test_a_message_that_lost_its_job_by_eviction_is_completed(
    client: Client, zendesk: Zendesk, res: Resources
) -> None:
    email_id = (await client.send(zendesk.payload()))["email_id"]
    await client.until(email_id, "queued")
    await res.redis.delete(f"arq:job:email:{email_id}:1")

    await res.dispatcher.enqueue([Job(email_id, 1)])

    assert await res.redis.exists(f"arq:job:email:{email_id}:1")
    assert await queued_in_redis(res) == 1


async def test_a_job_dequeued_but_not_claimed_by_a_killed_worker_is_dispatched_again(
    client: Client, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    email_id = (await client.send(zendesk.payload()))["email_id"]
    await client.until(email_id, "queued")
    assert len(await ArqQueue(res.redis).dequeue(10)) == 1
    await database.execute("UPDATE incoming_emails SET due_at = now()")

    await sweep(res)
    await res.dispatcher.drain()

    assert await queued_in_redis(res) == 1


async def test_two_concurrent_sweeps_share_the_due_jobs(
    client: Client, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    for _ in range(30):
        email_id = (await client.send(zendesk.payload()))["email_id"]
    await client.until(email_id, "queued")
    await database.execute("UPDATE incoming_emails SET due_at = now()")

    due = await asyncio.gather(*(sweep(res) for _ in range(5)))

    assert sum(due) == 30


async def test_the_job_of_a_dead_worker_is_taken_back_and_late_writes_are_refused(
    client: Client, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    slow = Fault(pause_after=1000)
    url = zendesk.add_file("slow.pdf", PDF, faults=[slow])
    email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
    paused = asyncio.create_task(process(res, email_id, 1))
    await slow.paused.wait()
    await database.execute("UPDATE incoming_emails SET lease_until = now() - interval '1 second'")

    await sweep(res)
    await process(res, email_id, 2)
    slow.resume.set()
    await paused

    email = await client.email(email_id)
    assert (email["processing_status"], email["retry_count"]) == ("completed", 0)
    assert [attempt["outcome"] for attempt in email["attempts"]] == ["abandoned", "completed"]


async def test_a_sweep_survives_an_outage_of_redis(
    client: Client, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    email_id = (await client.send(zendesk.payload()))["email_id"]
    await client.until(email_id, "queued")
    await res.redis.config_set("maxmemory", "1")
    try:
        await database.execute("UPDATE incoming_emails SET due_at = now()")
        await res.redis.flushall()
        await sweep(res)
        await res.dispatcher.drain()
    finally:
        await res.redis.config_set("maxmemory", "0")
    await eventually(lambda: is_reachable(res))
    await database.execute("UPDATE incoming_emails SET due_at = now()")

    assert await sweep(res) == 1
    await res.dispatcher.drain()
    assert await queued_in_redis(res) == 1


async def is_reachable(res: Resources) -> bool:
    return res.dispatcher.reachable


async def test_a_background_task_that_raises_is_restarted(
    client: Client, zendesk: Zendesk, res: Resources
) -> None:
    res.dispatcher.dispatch("no job at all")  # type: ignore[arg-type]

    email_id = (await client.send(zendesk.payload()))["email_id"]

    assert await eventually(lambda: client.until(email_id, "queued"))


async def test_background_work_that_swallows_its_cancellation_still_ends() -> None:
    """redis-py raises a timeout in place of the cancellation while it closes TLS."""

    async def stubborn() -> None:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    async with asyncio.timeout(20), background(stubborn):
        await asyncio.sleep(0)
