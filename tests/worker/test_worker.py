"""Workers as processes on a platform: killed, paused, stopped, and checked for health."""

import asyncio
import signal
from typing import Any, NoReturn, cast

import asyncpg
import pytest
from arq import func
from arq.worker import create_worker
from pydantic import SecretStr
from redis.exceptions import TimeoutError as RedisTimeout

from service.config.settings import Settings
from service.errors import SettingsError
from service.local.zendesk.stand_in import Fault, Zendesk
from service.queue.arq_queue import ArqQueue
from service.resources import Resources
from service.worker.settings import run_sync, worker_settings
from tests.conftest import Client, eventually, program, working
from tests.support.files import PDF, stored_files
from tests.support.processes import ARQ
from tests.support.proxy import before_redis


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Use a short lease, so that another worker soon gets the job of a dead one."""
    return settings.model_copy(update={"lease_seconds": 2})


async def started(client: Client, zendesk: Zendesk) -> tuple[int, Fault]:
    """Send an e-mail whose download pauses half-way, and wait for the pause."""
    fault = Fault(pause_after=1000)
    url = zendesk.add_file("slow.pdf", PDF, faults=[fault])
    email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
    await fault.paused.wait()
    return email_id, fault


async def outcomes(client: Client, email_id: int) -> list[Any]:
    return [attempt["outcome"] for attempt in (await client.email(email_id))["attempts"]]


async def test_a_worker_killed_during_a_download_costs_only_time(
    client: Client, zendesk: Zendesk, settings: Settings
) -> None:
    async with program(*ARQ, settings=settings) as worker:
        email_id, _ = await started(client, zendesk)
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
    async with program(*ARQ, settings=settings):
        email = await client.until(email_id, "completed", "failed")

    assert (email["processing_status"], email["retry_count"]) == ("completed", 0)
    assert await outcomes(client, email_id) == ["abandoned", "completed"]
    assert len(await stored_files(settings)) == 1


async def test_a_paused_worker_that_resumes_after_its_lease_writes_nothing(
    client: Client, zendesk: Zendesk, settings: Settings
) -> None:
    async with program(*ARQ, settings=settings) as sleeper:
        email_id, fault = await started(client, zendesk)
        sleeper.send_signal(signal.SIGSTOP)
        async with program(*ARQ, settings=settings):
            before = await client.until(email_id, "completed", "failed")
            sleeper.send_signal(signal.SIGCONT)
            fault.resume.set()
            sleeper.send_signal(signal.SIGTERM)
            await sleeper.wait()

    assert before["processing_status"] == "completed"
    assert {**before} == await client.email(email_id)
    assert len(await stored_files(settings)) == 1


async def test_sigterm_hands_unfinished_jobs_back_without_a_retry(
    client: Client, zendesk: Zendesk, settings: Settings
) -> None:
    async with program(*ARQ, settings=settings) as worker:
        email_id, _ = await started(client, zendesk)
        worker.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(worker.wait(), 25)
    email = await client.email(email_id)

    assert code == 0
    assert (email["processing_status"], email["retry_count"]) == ("queued", 0)
    assert await outcomes(client, email_id) == ["handed_back"]
    async with program(*ARQ, settings=settings):
        email = await client.until(email_id, "completed", "failed")
    assert (email["processing_status"], email["retry_count"]) == ("completed", 0)


async def test_sigterm_lets_a_short_job_finish(client: Client, zendesk: Zendesk, settings: Settings) -> None:
    settings = settings.model_copy(update={"shutdown_seconds": 15})
    async with program(*ARQ, settings=settings) as worker:
        email_id, fault = await started(client, zendesk)
        worker.send_signal(signal.SIGTERM)
        fault.resume.set()
        code = await asyncio.wait_for(worker.wait(), 25)

    assert code == 0
    assert (await client.email(email_id))["processing_status"] == "completed"


async def test_emptying_redis_loses_nothing(
    client: Client, zendesk: Zendesk, settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    emails = [
        (await client.send(zendesk.payload(attachments=[zendesk.add_file("a.pdf", PDF)])))["email_id"]
        for _ in range(20)
    ]
    await client.until(emails[-1], "queued")
    await res.redis.flushall()
    await database.execute("UPDATE incoming_emails SET due_at = now()")  # ten seconds later
    async with program(*ARQ, settings=settings):
        ends = [(await client.until(email, "completed", "failed"))["processing_status"] for email in emails]

    assert ends == ["completed"] * 20
    assert len(await stored_files(settings)) == 1


async def healthy(settings: Settings, **more: str) -> bool:
    """Check in a process of its own. Each costs a second, so the check is not repeated more often than its result changes."""
    await asyncio.sleep(0.5)
    async with program(
        "arq", "--check", "service.worker.WorkerSettings", settings=settings, **more
    ) as process:
        status = await process.wait()
    assert status in {0, 1}
    return status == 0


async def test_the_health_check_reports_only_the_worker_of_this_host(
    settings: Settings, res: Resources
) -> None:
    assert not await healthy(settings)
    async with program(*ARQ, settings=settings) as worker:
        other = program(*ARQ, settings=settings, WORKER_NAME="another-host")
        async with other as another:
            assert await eventually(lambda: healthy(settings))
            assert await eventually(lambda: healthy(settings, WORKER_NAME="another-host"))
            another.send_signal(signal.SIGTERM)
            await another.wait()
            assert await healthy(settings)
        async with program(*ARQ, settings=settings, WORKER_NAME="another-host"):
            worker.send_signal(signal.SIGKILL)
            await worker.wait()

            async def noticed() -> bool:
                return not await res.redis.exists(f"holdfast:health:{settings.worker_name}")

            assert await eventually(noticed)
            assert not await healthy(settings)


async def test_a_wrong_setting_ends_the_worker_with_one_line_about_it(settings: Settings) -> None:
    settings = settings.model_copy(update={"redis_url": SecretStr("http://nowhere")})
    async with program(*ARQ, settings=settings) as worker:
        assert await worker.wait() == 2


@pytest.mark.parametrize("fault", ["cut", "freeze"])
async def test_a_worker_survives_an_outage_of_redis_and_listens_again(
    fault: str, client: Client, zendesk: Zendesk, settings: Settings
) -> None:
    async with before_redis(settings) as (proxy, proxied), program(*ARQ, settings=proxied) as worker:
        busy, download = await started(client, zendesk)
        getattr(proxy, fault)()
        meanwhile = (await client.send(zendesk.payload()))["email_id"]
        await asyncio.sleep(2)  # the duration of the outage
        await proxy.resume()

        email = await client.until(meanwhile, "completed", "failed")
        download.resume.set()
        long_one = await client.until(busy, "completed", "failed")

        assert worker.returncode is None
    assert (email["processing_status"], long_one["processing_status"]) == ("completed", "completed")
    assert await outcomes(client, busy) == ["completed"]


async def test_sigterm_hands_jobs_back_during_an_outage_of_redis(
    client: Client, zendesk: Zendesk, settings: Settings
) -> None:
    async with before_redis(settings) as (proxy, proxied), program(*ARQ, settings=proxied) as worker:
        email_id, _ = await started(client, zendesk)
        proxy.cut()
        worker.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(worker.wait(), 25)

    assert code == 0
    assert await outcomes(client, email_id) == ["handed_back"]


async def test_a_worker_started_during_an_outage_of_redis_recovers(
    client: Client, zendesk: Zendesk, settings: Settings
) -> None:
    email_id = (await client.send(zendesk.payload()))["email_id"]
    async with before_redis(settings) as (proxy, proxied):
        proxy.cut()
        async with program(*ARQ, settings=proxied) as worker:
            await asyncio.sleep(2)  # the duration of the outage
            await proxy.resume()
            email = await client.until(email_id, "completed", "failed")

            assert worker.returncode is None
    assert email["processing_status"] == "completed"


async def test_an_error_in_place_of_a_cancellation_still_ends_the_worker(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py raises a timeout if it is cancelled while it watches a key on a frozen Redis."""
    runs = asyncio.Event()

    async def dequeue(_: ArqQueue, most: int) -> NoReturn:
        runs.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise RedisTimeout from None
        raise AssertionError("no message was enqueued")

    monkeypatch.setattr(ArqQueue, "dequeue", dequeue)
    async with asyncio.timeout(30), working(settings):
        await runs.wait()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("job_timeout", 300),
        ("max_tries", 3),
        ("queue_name", "other"),
        ("keep_result", 60),
        ("allow_abort_jobs", True),
    ],
)
def test_a_setting_of_arq_without_effect_is_refused(name: str, value: object, settings: Settings) -> None:
    changed = worker_settings(settings)
    setattr(changed, name, value)

    with pytest.raises(SettingsError, match=f"remove them: {name}$"):
        create_worker(cast("Any", changed), burst=True)


def test_an_option_of_a_function_without_effect_is_refused(settings: Settings) -> None:
    changed = vars(worker_settings(settings)) | {"functions": [func(run_sync, name="sync", timeout=5)]}

    with pytest.raises(SettingsError, match=r"remove them: timeout of sync$"):
        create_worker(cast("Any", changed))
