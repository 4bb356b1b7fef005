"""While Postgres or Redis is down, slow or full, no accepted webhook is lost or doubled."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from service.config.settings import Settings
from service.local.zendesk.sender import WebhookResponse
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.zendesk.signature import INVOCATION_ID, SIGNATURE
from tests.conftest import eventually, serving, working
from tests.support.connections import is_busy, is_idle, metric
from tests.support.proxy import before_postgres, before_redis
from tests.support.rows import bodies, count_saved, locked
from tests.support.webhooks import IGNORED, NO_HANG, TICKET, no_traceback, post, post_again, problem, signed

__all__ = ["no_traceback"]  # a fixture for each test here


BRIEF = 0.5  # seconds of a request for Postgres


def impatient(settings: Settings, **more: object) -> Settings:
    return settings.model_copy(update={"database_seconds": BRIEF, "database_pool_size": 2, **more})


def check_try_again(answer: WebhookResponse) -> None:
    """Check for the one answer after which Zendesk sends again."""
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "10"
    assert problem(answer)["code"].startswith("database_")


async def test_without_postgres_webhooks_get_503(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        proxy.cut()
        answers = [await post(client, body) for body in (TICKET, b"?", IGNORED, TICKET)]
        await proxy.resume()
        again = await post(client, TICKET)

    for answer in answers:
        check_try_again(answer)
    assert again.status == 200
    assert await count_saved(database) == 1


async def test_requests_without_need_of_postgres_are_answered_while_it_is_down(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    alone = settings.model_copy(update={"zendesk_oauth_client_id": None, "zendesk_oauth_client_secret": None})
    async with before_postgres(alone) as (proxy, proxied), serving(proxied, zendesk) as client:
        proxy.cut()
        statuses = [
            (await post(client, TICKET, **{SIGNATURE: None})).status,
            (await post(client, TICKET, **signed(TICKET, secret="another"))).status,
        ]
        async with client.session.get(f"{client.url}/healthz") as response:
            statuses.append(response.status)
        async with client.session.get(f"{client.url}/metrics") as response:
            statuses.append(response.status)

    assert statuses == [401, 401, 200, 200]


async def test_an_unknown_signature_is_asked_for_again_while_postgres_cannot_tell_new_secrets(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """Zendesk does not send again after a 401, and the secret may have been replaced meanwhile."""
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        start = client.res.learned_secrets.task
        assert start is not None
        await start
        proxy.cut()
        answer = await post(client, TICKET, **signed(TICKET, secret="another"))

    assert (answer.status, problem(answer)["code"]) == (503, "signing_secrets_late")


@pytest.mark.parametrize("connected", [True, False])
async def test_silent_postgres_gives_503_within_the_budget(
    *, connected: bool, settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    brief = impatient(settings)
    async with before_postgres(brief) as (proxy, proxied), serving(proxied, zendesk) as client:
        if connected:
            await post_again(client, b'{"ticket_id": "before"}')
        proxy.freeze()
        answers = await asyncio.gather(*(post(client, b'{"ticket_id": "frozen"}') for _ in range(10)))
        await proxy.resume()
        again = await post_again(client, b'{"ticket_id": "after"}')

    for answer in answers:
        check_try_again(answer)
    assert again.status == 200
    assert (await bodies(database))[-1] == b'{"ticket_id": "after"}'


async def test_slow_postgres_within_the_budget_gives_200(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        proxy.delay = 0.05

        answer = await post(client, TICKET)

    assert answer.status == 200
    assert await count_saved(database) == 1


async def test_restart_of_postgres_between_two_webhooks_costs_no_error(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(30)))  # fills the pool
        for _ in range(3):
            proxy.cut()
            await proxy.resume()
            await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(30)))

    assert await count_saved(database) == 120


async def test_connections_that_postgres_terminated_cost_no_error(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with serving(settings, zendesk) as client:
        for _ in range(3):
            await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(30)))
            await database.fetch(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%'"
            )
        await client.send(zendesk.payload())

    assert await count_saved(database) == 91


async def test_connections_to_a_failed_over_host_are_dropped(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """A dead peer is silent: each dead connection may cost one answer, but is never used twice."""
    settings = impatient(settings)
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        await asyncio.gather(*(post_again(client, zendesk.payload()) for _ in range(10)))
        proxy.strand()
        await asyncio.gather(*(post_again(client, zendesk.payload()) for _ in range(10)))

        assert await eventually(lambda: is_idle(client))
    assert await count_saved(database) == 20


async def backends(connection: asyncpg.Connection) -> int:
    number: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%'"
    )
    return number


async def test_exhausted_pool_gives_503_and_recovers(
    settings: Settings, zendesk: Zendesk, res: Resources, database_url: str, database: asyncpg.Connection
) -> None:
    settings = impatient(settings, database_pool_size=1)
    body = json.dumps(zendesk.payload()).encode()
    async with serving(settings, zendesk) as client:
        await post_again(client, TICKET)
        async with locked(database_url):
            answers = await asyncio.gather(*(post(client, body) for _ in range(8)))
        again = await post_again(client, body)

        assert await eventually(lambda: is_idle(client))
    for answer in answers:
        check_try_again(answer)
    assert again.status == 200
    assert await bodies(database) == [TICKET, body]


async def test_timed_out_requests_leave_no_busy_backend(
    settings: Settings, zendesk: Zendesk, res: Resources, database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(impatient(settings), zendesk) as client, locked(database_url):
        answers = await asyncio.gather(*(post(client, zendesk.payload()) for _ in range(50)))

        async def few() -> bool:
            return await backends(database) <= 2

        assert await eventually(few)
        assert await eventually(lambda: is_idle(client))
    assert {answer.status for answer in answers} == {503}


@pytest.mark.parametrize("fault", ["cut", "frozen", "stranded"])
async def test_50_failures_leak_no_task_and_no_connection(
    fault: str, settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    brief = impatient(settings)
    async with before_postgres(brief) as (proxy, proxied), serving(proxied, zendesk) as client:
        await asyncio.gather(*(post_again(client, zendesk.payload()) for _ in range(4)))
        await eventually(lambda: is_idle(client))
        before = ours()
        for _ in range(5):
            {"cut": proxy.cut, "frozen": proxy.freeze, "stranded": proxy.strand}[fault]()
            await asyncio.gather(*(post(client, zendesk.payload()) for _ in range(10)))
        await proxy.resume()

        answers = await asyncio.gather(*(post_again(client, zendesk.payload()) for _ in range(10)))

        async def at_rest() -> bool:
            # Postgres cannot be told about stranded connections.
            few = fault == "stranded" or await backends(database) <= 2
            return few and await is_idle(client) and ours() <= before

        assert await eventually(at_rest)
    assert {answer.status for answer in answers} == {200}


def ours() -> int:
    """Count the tasks, except those of the proxy and of the client's kept connections."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum(not name.startswith(("Proxy.", "RequestHandler.")) for name in names)


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("cuts", [True, False])
@pytest.mark.parametrize("kind", ["email", "unreadable"])
async def test_commit_with_unknown_outcome_is_neither_lost_nor_duplicated(
    *,
    kind: str,
    cuts: bool,
    arrives: bool,
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    database: asyncpg.Connection,
) -> None:
    """The connection breaks after the row was sent: after a 2xx the row is there, and a repeat leaves one."""
    marker = uuid.uuid4().hex.encode()
    body = b'{"ticket_id": "%s"}' % marker if kind == "email" else marker
    invocation = {INVOCATION_ID: "one"}
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        await post(client, TICKET)
        proxy.trip(marker, arrives=arrives, cuts=cuts)

        first = await post(client, body, **invocation)
        assert proxy.sprung.is_set()
        kept = await count_saved(database) - 1
        await proxy.resume()
        again = await post(client, body, **invocation)

    assert first.status == (503 if cuts else 200)
    assert kept == (0 if cuts and not arrives else 1)
    assert again.status == 200
    assert await count_saved(database) == 2


async def test_connection_broken_at_each_chunk_loses_and_duplicates_nothing(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """The connection breaks at every statement in turn."""
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        for number, arrives in ((number, arrives) for number in range(12) for arrives in (True, False)):
            body = json.dumps(zendesk.payload(ticket_id=f"{number}-{arrives}")).encode()
            proxy.drop()
            proxy.trip(b"", arrives=arrives, cuts=False, skip=number)
            first = await post(client, body)
            assert first.status in (200, 503)
            if first.status == 200:
                assert body in await bodies(database)
            await proxy.resume()
            assert (await post_again(client, body)).status == 200

            assert (await bodies(database)).count(body) == 1


async def test_server_stops_though_postgres_does_not_answer(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """A running request gets its answer, and the shutdown waits for no connection."""
    brief = impatient(settings, database_pool_size=10)
    async with before_postgres(brief) as (proxy, proxied), serving(proxied, zendesk) as client:
        await asyncio.gather(*(post_again(client, zendesk.payload()) for _ in range(50)))  # fills the pool
        await eventually(lambda: is_idle(client))
        proxy.freeze()
        answering = asyncio.create_task(post(client, zendesk.payload()))
        await eventually(lambda: is_busy(client))

        await client.stop()

    check_try_again(await answering)


# Redis down, slow, or full


@asynccontextmanager
async def broken_redis(fault: str, settings: Settings, res: Resources) -> AsyncIterator[Settings]:
    """Yield settings with a Redis that refuses jobs until the end of the block."""
    if fault == "full":
        await res.redis.config_set("maxmemory", "1")
        try:
            yield settings
        finally:
            await res.redis.config_set("maxmemory", "0")
        return
    async with before_redis(settings) as (proxy, proxied):
        proxy.cut() if fault == "away" else proxy.freeze()
        yield proxied


@pytest.mark.parametrize("fault", ["away", "frozen", "full"])
async def test_without_redis_a_webhook_is_accepted_and_queued_after_its_return(
    fault: str, settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    failed = 'holdfast_dispatches_total{outcome="failed"}'
    async with broken_redis(fault, settings, res) as broken, serving(broken, zendesk) as client:
        before = await metric(client, failed)
        receipts = await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(20)))

        async def gave_up() -> bool:
            return await metric(client, failed) >= before + 20

        assert await eventually(gave_up)
        statuses = await database.fetch("SELECT DISTINCT processing_status FROM incoming_emails")
    assert [row["processing_status"] for row in statuses] == ["received"]
    assert {receipt["status"] for receipt in receipts} == {"accepted"}

    async with serving(settings, zendesk) as client, working(settings):
        for receipt in receipts:
            email = await client.until(receipt["email_id"], "completed", "failed")
            assert email["processing_status"] == "completed"


@pytest.mark.parametrize("fault", ["away", "frozen"])
async def test_answer_does_not_wait_for_redis(
    fault: str, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """Two hundred in a row, while a single attempt to enqueue takes up to two seconds."""
    async with broken_redis(fault, settings, res) as broken, serving(broken, zendesk) as client:
        async with asyncio.timeout(NO_HANG):
            receipts = [await client.send(zendesk.payload()) for _ in range(200)]

    assert {receipt["status"] for receipt in receipts} == {"accepted"}


@pytest.mark.parametrize("fault", ["cut", "freeze", "drop", "strand"])
async def test_dispatch_resumes_when_redis_is_back(
    fault: str, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with before_redis(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        first = await client.send(zendesk.payload())
        await client.until(first["email_id"], "queued")
        getattr(proxy, fault)()
        await client.send(zendesk.payload())
        await proxy.resume()

        async def queued() -> bool:
            """Jobs enqueued on a dead connection may be left to the sweep of the workers."""
            receipt = await client.send(zendesk.payload())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    return bool(await client.until(receipt["email_id"], "queued"))
            return False

        assert await eventually(queued)
