"""The queue in Redis: new messages wake listening workers, and each message is dequeued once."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from arq.worker import Worker

from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.queue.arq_queue import ArqQueue, QueueMessage
from service.resources import Resources
from tests.conftest import Client, eventually, program, working
from tests.support.processes import ARQ


def messages(number: int) -> list[QueueMessage]:
    return [QueueMessage(f"job:{each}", "process", (each, 1), score=each) for each in range(1, number + 1)]


async def test_messages_are_dequeued_once_and_lowest_scores_first(res: Resources) -> None:
    queue = ArqQueue(res.redis)
    await queue.enqueue(reversed(messages(5)))
    await queue.enqueue(messages(5))

    batches = [await queue.dequeue(2) for _ in range(4)]

    assert [message.arguments[0] for batch in batches for message in batch] == [1, 2, 3, 4, 5]
    assert batches[3] == []
    assert await res.redis.keys("arq:*") == []


async def test_concurrent_workers_share_the_messages(res: Resources) -> None:
    queue = ArqQueue(res.redis)
    await queue.enqueue(messages(1000))

    batches = await asyncio.gather(*(queue.dequeue(30) for _ in range(40)))

    numbers = [message.arguments[0] for batch in batches for message in batch]
    assert sorted(numbers) == list(range(1, 1001))


async def test_a_message_that_arq_enqueued_is_dequeued_when_it_is_due(res: Resources) -> None:
    queue = ArqQueue(res.redis)
    await res.redis.enqueue_job("process", 1, attempt_number=1, _job_id="now")
    await res.redis.enqueue_job("process", 2, 1, _job_id="later", _defer_by=timedelta(hours=1))

    batch = await queue.dequeue(10)

    assert [(message.job_id, message.arguments, message.keywords) for message in batch] == [
        ("now", [1], {"attempt_number": 1})
    ]
    assert await res.redis.zrange("arq:queue", 0, -1) == [b"later"]


async def test_arq_can_list_our_messages(res: Resources) -> None:
    await ArqQueue(res.redis).enqueue(messages(2))

    queued = await res.redis.queued_jobs()

    assert [(job.function, *job.args) for job in queued] == [("process", 1, 1), ("process", 2, 1)]


async def test_the_first_message_on_an_empty_queue_wakes_workers_and_the_second_does_not(
    res: Resources,
) -> None:
    queue, woken = ArqQueue(res.redis), asyncio.Event()
    listening = asyncio.create_task(queue.listen(woken.set))
    await eventually(lambda: subscribed(res))
    before = await published(res)

    await queue.enqueue(messages(1))
    await asyncio.wait_for(woken.wait(), 30)
    await queue.enqueue(messages(2))  # one message was there, and the woken worker takes both

    assert await published(res) == before + 1
    await queue.dequeue(10)
    await queue.enqueue(messages(1))
    assert await published(res) == before + 2
    listening.cancel()
    await asyncio.wait({listening})


async def published(res: Resources) -> int:
    statistics = await res.redis.info("commandstats")
    return int(statistics.get("cmdstat_publish", {"calls": 0})["calls"])


async def subscribed(res: Resources) -> bool:
    return bool(await res.redis.pubsub_channels())


@pytest.mark.parametrize("what", ["an id of other bytes", "a job of another type"])
async def test_messages_that_arq_does_not_write_neither_end_nor_block_a_worker(
    what: str, client: Client, worker: Worker, zendesk: Zendesk, res: Resources
) -> None:
    if what == "a job of another type":
        await res.redis.zadd("arq:job:nonsense", {"another": 1})
    await res.redis.zadd("arq:queue", {b"nonsense" if what == "a job of another type" else b"\xff\xfe": 1})

    email_id = (await client.send(zendesk.payload()))["email_id"]
    await client.until(email_id, "completed", "failed")

    assert await res.redis.zcard("arq:queue") == 0
    assert worker.main_task
    assert not worker.main_task.done()


@pytest.mark.parametrize(
    ("job", "arguments"),
    [(b"", ()), (b"\x80\x04garbage", ()), (b'{"f": 1}', ()), (None, ("one", "two", "three")), (None, ())],
)
async def test_malformed_messages_end_no_worker(
    job: bytes | None,
    arguments: tuple[str, ...],
    client: Client,
    worker: Worker,
    zendesk: Zendesk,
    res: Resources,
) -> None:
    if job is None:
        await res.redis.enqueue_job("process", *arguments, _job_id="nonsense")
    else:
        await res.redis.set("arq:job:nonsense", job)
        await res.redis.zadd("arq:queue", {"nonsense": 1})
    await res.redis.enqueue_job("no_such_function")

    email_id = (await client.send(zendesk.payload()))["email_id"]

    assert (await client.until(email_id, "completed", "failed"))["processing_status"] == "completed"
    assert await res.redis.zcard("arq:queue") == 0


async def test_running_jobs_are_off_the_queue_and_within_the_limit(
    client: Client, zendesk: Zendesk, settings: Settings, res: Resources
) -> None:
    slow = [Fault(pause_after=10) for _ in range(3)]
    urls = [zendesk.add_file(f"{n}.pdf", b"%PDF-1.7" * 1000, faults=[fault]) for n, fault in enumerate(slow)]
    emails = [(await client.send(zendesk.payload(attachments=[url])))["email_id"] for url in urls]
    await client.until(emails[2], "queued")
    few = settings.model_copy(update={"jobs_per_process": 2, "sweep_seconds": 3600})
    async with working(few) as worker:
        await asyncio.gather(slow[0].paused.wait(), slow[1].paused.wait())
        waiting = await res.redis.zrange("arq:queue", 0, -1)
        running = len(worker.tasks)
        for fault in slow:
            fault.resume.set()
        ends = [(await client.until(email, "completed"))["attempt_number"] for email in emails]

    assert (waiting, running) == ([f"email:{emails[2]}:1".encode()], 2)
    assert ends == [1, 1, 1]


async def test_a_worker_in_burst_mode_ends_with_an_empty_queue(
    client: Client, zendesk: Zendesk, settings: Settings, tmp_path: Path
) -> None:
    emails = [(await client.send(zendesk.payload()))["email_id"] for _ in range(3)]
    await client.until(emails[2], "queued")

    async with program(*ARQ, "--burst", settings=settings) as worker:
        code = await asyncio.wait_for(worker.wait(), 60)

    assert code == 0
    assert [(await client.email(email))["processing_status"] for email in emails] == ["completed"] * 3
