"""The queue in Redis: who rings wakes who listens, and each ring is answered once."""

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

ARQ = ("arq", "service.worker.WorkerSettings")


def rings(number: int) -> list[QueueMessage]:
    return [QueueMessage(f"job:{each}", "process", (each, 1), score=each) for each in range(1, number + 1)]


async def test_the_lowest_scores_are_answered_first_and_each_ring_once(res: Resources) -> None:
    bell = ArqQueue(res.redis)
    await bell.enqueue(reversed(rings(5)))
    await bell.enqueue(rings(5))

    answers = [await bell.dequeue(2) for _ in range(4)]

    assert [ring.arguments[0] for answer in answers for ring in answer] == [1, 2, 3, 4, 5]
    assert answers[3] == []
    assert await res.redis.keys("arq:*") == []


async def test_many_who_answer_at_once_share_the_rings(res: Resources) -> None:
    bell = ArqQueue(res.redis)
    await bell.enqueue(rings(1000))

    answers = await asyncio.gather(*(bell.dequeue(30) for _ in range(40)))

    numbers = [ring.arguments[0] for answer in answers for ring in answer]
    assert sorted(numbers) == list(range(1, 1001))


async def test_what_arq_itself_puts_on_the_queue_is_answered_when_it_is_due(res: Resources) -> None:
    bell = ArqQueue(res.redis)
    await res.redis.enqueue_job("process", 1, attempt_number=1, _job_id="now")
    await res.redis.enqueue_job("process", 2, 1, _job_id="later", _defer_by=timedelta(hours=1))

    answer = await bell.dequeue(10)

    assert [(ring.job_id, ring.arguments, ring.keywords) for ring in answer] == [
        ("now", [1], {"attempt_number": 1})
    ]
    assert await res.redis.zrange("arq:queue", 0, -1) == [b"later"]


async def test_arq_can_list_what_we_ring(res: Resources) -> None:
    await ArqQueue(res.redis).enqueue(rings(2))

    queued = await res.redis.queued_jobs()

    assert [(job.function, *job.args) for job in queued] == [("process", 1, 1), ("process", 2, 1)]


async def test_a_ring_on_an_empty_queue_wakes_who_listens_and_a_second_one_nobody(res: Resources) -> None:
    bell, heard = ArqQueue(res.redis), asyncio.Event()
    listening = asyncio.create_task(bell.listen(heard.set))
    await eventually(lambda: subscribed(res))
    before = await published(res)

    await bell.enqueue(rings(1))
    await asyncio.wait_for(heard.wait(), 30)
    await bell.enqueue(rings(2))  # there was one, and who had been woken takes both

    assert await published(res) == before + 1
    await bell.dequeue(10)
    await bell.enqueue(rings(1))
    assert await published(res) == before + 2
    listening.cancel()
    await asyncio.wait({listening})


async def published(res: Resources) -> int:
    statistics = await res.redis.info("commandstats")
    return int(statistics.get("cmdstat_publish", {"calls": 0})["calls"])


async def subscribed(res: Resources) -> bool:
    return bool(await res.redis.pubsub_channels())


@pytest.mark.parametrize("what", ["an id of other bytes", "a job of another type"])
async def test_what_no_arq_writes_neither_ends_a_worker_nor_blocks_it(
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
async def test_nonsense_on_the_queue_ends_no_worker(
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


async def test_what_runs_is_on_the_queue_no_longer_and_no_more_runs_than_there_are_places(
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


async def test_a_worker_in_burst_mode_ends_when_nothing_is_left(
    client: Client, zendesk: Zendesk, settings: Settings, tmp_path: Path
) -> None:
    emails = [(await client.send(zendesk.payload()))["email_id"] for _ in range(3)]
    await client.until(emails[2], "queued")

    async with program(*ARQ, "--burst", settings=settings) as worker:
        code = await asyncio.wait_for(worker.wait(), 60)

    assert code == 0
    assert [(await client.email(email))["processing_status"] for email in emails] == ["completed"] * 3
