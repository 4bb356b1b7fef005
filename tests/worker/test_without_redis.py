"""Workers without Redis: jobs that are due in Postgres are processed, whatever Redis does or loses."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from arq.worker import Worker

from service.capture.attempt import process
from service.config.settings import Settings
from service.jobs.waiting import Job
from service.local.drill.proxy import Proxy
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources, open_resources
from tests.conftest import Client, eventually, program, serving, working
from tests.support.files import PDF
from tests.support.proxy import before_postgres, before_redis

pytestmark = pytest.mark.long

ARQ = ("arq", "service.worker.WorkerSettings")


@asynccontextmanager
async def without_redis(
    settings: Settings, zendesk: Zendesk, fault: str
) -> AsyncIterator[tuple[Client, Settings, Proxy]]:
    """Run the web process with a Redis that is down; yield settings for workers with the same Redis."""
    async with before_redis(settings) as (proxy, proxied):
        getattr(proxy, fault)()
        async with serving(proxied, zendesk) as client:
            yield client, proxied, proxy


@pytest.mark.parametrize("fault", ["cut", "freeze"])
async def test_emails_are_captured_without_redis(
    fault: str, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """The worker starts and stops in good order, too."""
    url = zendesk.add_file("a.pdf", PDF)
    async with without_redis(settings, zendesk, fault) as (client, proxied, _):
        emails = [(await client.send(zendesk.payload(attachments=[url])))["email_id"] for _ in range(12)]
        async with program(*ARQ, settings=proxied) as worker:
            ends = [
                (await client.until(email, "completed", "failed"))["processing_status"] for email in emails
            ]
            worker.send_signal(signal.SIGTERM)
            code = await asyncio.wait_for(worker.wait(), 25)

    assert ends == ["completed"] * 12
    assert code == 0


async def test_emails_are_captured_while_redis_is_full(
    client: Client, worker: Worker, zendesk: Zendesk, res: Resources
) -> None:
    await res.redis.config_set("maxmemory", "1")
    try:
        email_id = (await client.send(zendesk.payload()))["email_id"]
        email = await client.until(email_id, "completed", "failed")
    finally:
        await res.redis.config_set("maxmemory", "0")

    assert email["processing_status"] == "completed"


async def test_emails_are_captured_while_redis_loses_all_messages(
    client: Client, zendesk: Zendesk, res: Resources, settings: Settings, database: asyncpg.Connection
) -> None:
    """No message reaches a worker: all jobs come from the sweep."""
    emails = [(await client.send(zendesk.payload()))["email_id"] for _ in range(5)]
    await client.until(emails[-1], "queued")
    await res.redis.flushall()
    await res.redis.config_set("maxmemory", "1")  # and it accepts no new script
    await database.execute("UPDATE incoming_emails SET due_at = now()")
    try:
        async with working(settings):
            ends = [(await client.until(email, "completed"))["attempt_number"] for email in emails]
    finally:
        await res.redis.config_set("maxmemory", "0")

    assert ends == [1] * 5


async def test_a_shutdown_starts_no_job_and_hands_running_ones_back(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    slow = Fault(pause_after=1000)
    url = zendesk.add_file("slow.pdf", PDF, faults=[slow])
    async with without_redis(settings, zendesk, "cut") as (client, proxied, _):
        email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
        async with program(*ARQ, settings=proxied) as worker:
            await slow.paused.wait()
            worker.send_signal(signal.SIGTERM)
            await asyncio.wait_for(worker.wait(), 25)
        email = await client.email(email_id)

    assert (email["processing_status"], email["retry_count"]) == ("queued", 0)
    assert [attempt["outcome"] for attempt in email["attempts"]] == ["handed_back"]


async def test_a_claim_cancelled_in_flight_is_handed_back_without_a_retry(
    client: Client, zendesk: Zendesk, settings: Settings, res: Resources
) -> None:
    email_id = (await client.send(zendesk.payload()))["email_id"]
    async with before_postgres(settings) as (proxy, proxied), open_resources(proxied) as slow:
        await process(
            slow, 999, 1
        )  # the connection is open and knows the types: the next statement is the claim
        proxy.delay = 0.3
        attempt = asyncio.create_task(process(slow, email_id, 1))

        async def claimed() -> bool:
            return bool((await client.email(email_id))["attempts"])

        await eventually(claimed)  # Postgres has committed, and its response is on the way
        attempt.cancel()
        await asyncio.wait({attempt})

    email = await client.email(email_id)
    assert attempt.cancelled()
    assert (email["processing_status"], email["retry_count"]) == ("queued", 0)
    assert [each["outcome"] for each in email["attempts"]] == ["handed_back"]


async def test_first_attempts_are_enqueued_before_all_others(res: Resources) -> None:
    await res.dispatcher.enqueue([Job(number, 2) for number in range(1, 100)])
    await res.dispatcher.enqueue([Job(100, 1)])

    first = await res.redis.zrange("arq:queue", 0, 0)

    assert first == [b"email:100:1"]


@pytest.mark.parametrize("redis", ["there", "away"])
async def test_a_backlog_of_retries_does_not_delay_a_new_email(
    redis: str, settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """Each job of the backlog takes longer than the new one may wait, and there are more jobs than slots."""
    slow = zendesk.add_file("slow.pdf", PDF, faults=[Fault(delay_seconds=0.3)] * 2000)
    backlog = 400
    async with before_redis(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        for _ in range(backlog):
            await client.send(zendesk.payload(attachments=[slow]))
        await client.res.dispatcher.drain()
        await database.execute(
            "UPDATE incoming_emails SET processing_status = 'queued', attempt_number = 1, retry_count = 1,"
            " due_at = now()"
        )
        await res.redis.flushall()
        if redis == "away":
            proxy.cut()
        async with program(*ARQ, settings=proxied.model_copy(update={"jobs_per_process": 4})):
            await eventually(lambda: running(database))  # the backlog uses all slots
            email_id = (await client.send(zendesk.payload()))["email_id"]
            await client.until(email_id, "completed")

            left = await database.fetchval(
                "SELECT count(*) FROM incoming_emails WHERE processing_status <> 'completed'"
            )
    assert left > backlog / 2


async def outcomes(database: asyncpg.Connection) -> set[str]:
    rows = await database.fetch("SELECT DISTINCT outcome FROM attempts")
    return {row["outcome"] for row in rows}


async def test_a_rolling_restart_under_load_costs_no_retry(
    client: Client, zendesk: Zendesk, settings: Settings, database: asyncpg.Connection
) -> None:
    settings = settings.model_copy(update={"shutdown_seconds": 2, "lease_seconds": 30})
    url = zendesk.add_file("slow.pdf", PDF, faults=[Fault(bytes_per_second=30_000)] * 500)
    emails: list[int] = []
    most = 0

    async def load() -> None:
        while True:
            if len(emails) < most:
                emails.append((await client.send(zendesk.payload(attachments=[url])))["email_id"])
            await asyncio.sleep(0.05)

    loading = asyncio.create_task(load())
    for _ in range(3):
        async with program(*ARQ, settings=settings) as worker:
            before = len(emails)
            most = before + 60  # else a slow machine would get even more jobs
            await eventually(lambda: running(database))
            await eventually(lambda before=before: more_than(emails, before + 20))  # type: ignore[misc]
            worker.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(worker.wait(), 25) == 0
    loading.cancel()
    async with program(*ARQ, settings=settings):
        ends = [await client.until(email, "completed", "failed") for email in emails]

    assert {email["processing_status"] for email in ends} == {"completed"}
    assert {email["retry_count"] for email in ends} == {0}
    assert await outcomes(database) == {"completed", "handed_back"}


async def running(database: asyncpg.Connection) -> Any:
    return await database.fetchval(
        "SELECT count(*) FROM incoming_emails WHERE processing_status = 'processing'"
    )


async def more_than(emails: list[int], number: int) -> bool:
    return len(emails) > number
