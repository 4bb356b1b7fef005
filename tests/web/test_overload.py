"""Overload: webhooks are refused with 503 at once, and no acknowledged one is lost."""

import asyncio
import json
from collections import Counter
from contextlib import suppress

import asyncpg
import pytest

from service import group_commit, intake
from service.config.settings import Settings
from service.local.zendesk.stand_in import WebhookResponse, Zendesk
from service.resources import Resources
from service.web import webhook
from service.web.bodies import BODIES
from service.zendesk.signature import SIGNATURE, TIMESTAMP
from tests.conftest import API_TOKEN, Client, Server, eventually, serving
from tests.support.connections import connect

# Headers like Zendesk's with a forged signature.
FORGED = f"{TIMESTAMP}: 2026-11-29T06:00:00Z\r\n{SIGNATURE}: {'A' * 43}=\r\n"


async def test_webhooks_are_refused_while_postgres_is_blocked_and_accepted_afterwards(
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A locked table, and a hundred webhooks."""
    monkeypatch.setattr(group_commit, "MOST_WAITING", 8)
    settings = settings.model_copy(update={"database_pool_size": 2, "database_seconds": 5.0})
    async with serving(settings, zendesk) as client:
        async with database.transaction():
            await database.execute("LOCK TABLE incoming_emails IN ACCESS EXCLUSIVE MODE")
            first: list[asyncio.Task[WebhookResponse]] = []

            async def is_full() -> bool:
                first.append(asyncio.create_task(_send(client, zendesk)))
                return intake.is_full(client.res)

            await eventually(is_full)
            later = await asyncio.gather(*(_send(client, zendesk) for _ in range(40)))
            answers = [*later, *await asyncio.gather(*first)]
        again = await eventually(lambda: _accepted(client, zendesk))
        rows = await database.fetch("SELECT zendesk_ticket_id FROM incoming_emails")

    assert {answer.status for answer in answers} == {503}
    assert {answer.headers["Retry-After"] for answer in answers} == {"10"}
    assert "overloaded" in {json.loads(answer.body)["code"] for answer in answers}
    assert again.status == 200
    assert len(rows) <= len(answers) + 1


async def test_burst_of_webhooks_is_accepted_completely(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    answers = await asyncio.gather(*(_send(client, zendesk) for _ in range(300)))

    assert Counter(answer.status for answer in answers) == {200: 300}
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 300


async def test_bodies_over_the_memory_limit_are_refused_and_memory_is_freed(
    client: Server, zendesk: Zendesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow unsigned bodies on many connections, with headers like Zendesk's."""
    monkeypatch.setattr(webhook, "MOST_READ_BYTES", 40_000)
    host, port = client.url.removeprefix("http://").split(":")
    head = (
        f"POST /webhooks/zendesk HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: 100000\r\n{FORGED}\r\n"
    ).encode()
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(10)]
    for _, writer in connections:
        writer.write(head + b"x" * 8_000)
    # Admitted requests wait for the rest of their bodies: a refused one is answered first.
    first = [asyncio.create_task(reader.read(400)) for reader, _ in connections]
    done, _ = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    for task in first:
        task.cancel()
    for _, writer in connections:
        writer.transport.abort()
    refused = done.pop().result()
    again = await eventually(lambda: _accepted(client, zendesk))

    assert refused.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 10" in refused
    assert again.status == 200


# The part that attackers send of a body of 1 MB, after a head like Zendesk's.
ATTACKS = {"and no more": 200_000, "slowly": 100_000, "whole": 1_000_000}


@pytest.mark.parametrize("way", ATTACKS)
async def test_large_unsigned_bodies_cost_no_webhook_its_answer(
    way: str, client: Server, zendesk: Zendesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They exceed the common limit on many connections, and each webhook still gets its 200."""
    monkeypatch.setattr(webhook, "MOST_READ_BYTES", 4_000_000)
    bodies = client.app[BODIES]
    most, refused = 0, 0

    async def attack() -> None:
        nonlocal most, refused
        while True:
            async with connect(client) as (reader, writer):
                sending = asyncio.create_task(_attack(writer, ATTACKS[way], slowly=way == "slowly"))
                status_line = await reader.readline()
                sending.cancel()
                most = max(most, bodies.read_bytes)
                refused += b" 503 " in status_line

    async with asyncio.TaskGroup() as group:
        attackers = [group.create_task(attack()) for _ in range(20 if way == "whole" else 60)]
        # Complete bodies are refused by their signature, perhaps before the limit is reached.
        if way != "whole":
            await eventually(lambda: _is_true(refused > 0))
        answers = [await _send(client, zendesk) for _ in range(20)]
        answers += await asyncio.gather(*(_send(client, zendesk) for _ in range(80)))
        for attacker in attackers:
            attacker.cancel()

    assert Counter(answer.status for answer in answers) == {200: 100}
    assert most <= 4_000_000
    assert bodies.read_bytes == 0 or await eventually(lambda: _is_true(bodies.read_bytes == 0))
    assert not bodies.bodies


async def test_request_without_zendesk_headers_is_refused_before_its_body(client: Server) -> None:
    """Without Zendesk's headers no byte of a body is read into memory."""
    bad = {"signature_missing": f"{TIMESTAMP}: 1", "signature_mismatch": f"{TIMESTAMP}: 1\r\n{SIGNATURE}: no"}
    bad["timestamp_missing"] = f"{SIGNATURE}: {'A' * 43}="
    bad["timestamp_malformed"] = f"{SIGNATURE}: {'A' * 43}=\r\n{TIMESTAMP}: {{"
    for code, lines in bad.items():
        async with connect(client) as (reader, writer):
            writer.write(
                f"POST /webhooks/zendesk HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n{lines}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readuntil(b"}")

        assert head.startswith(b"HTTP/1.1 401")
        assert json.loads(body)["code"] == code
        assert not client.app[BODIES].bodies


async def _attack(writer: asyncio.StreamWriter, size: int, *, slowly: bool) -> None:
    head = f"POST /webhooks/zendesk HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n{FORGED}\r\n"
    with suppress(ConnectionError):
        writer.write(head.encode())
        for _ in range(10):
            writer.write(b"x" * (size // 10))
            await writer.drain()
            await asyncio.sleep(0.05 if slowly else 0)


async def _is_true(value: bool) -> bool:  # noqa: FBT001 a condition to wait for
    return value


async def _send(client: Client, zendesk: Zendesk) -> WebhookResponse:
    return await zendesk.send(client.webhook, zendesk.payload())


async def _accepted(client: Client, zendesk: Zendesk) -> WebhookResponse | None:
    answer = await _send(client, zendesk)
    return answer if answer.status == 200 else None


@pytest.mark.parametrize("path", ["/metrics", "/readyz"])
async def test_open_paths_share_one_query_between_concurrent_requests(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection, path: str
) -> None:
    """The table is locked, and fifty requests come: one connection waits."""
    async with serving(settings, zendesk) as client:
        async with database.transaction():
            await database.execute("LOCK TABLE incoming_emails IN ACCESS EXCLUSIVE MODE")
            asking = [asyncio.create_task(_status(client, path)) for _ in range(50)]
            most = 0

            async def is_over() -> bool:
                nonlocal most
                most = max(most, await _waiting(database, "incoming_emails"))
                return all(task.done() for task in asking)

            await eventually(is_over)
        answers = await asyncio.gather(*asking)

    assert len(set(answers)) == 1
    assert 0 < most <= 2  # the watch of alerts may be one


async def test_lists_leave_connections_for_webhooks(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Twenty lists wait for a table that webhooks do not need, and a webhook is accepted."""
    settings = settings.model_copy(update={"database_pool_size": 4, "database_seconds": 30.0})
    async with serving(settings, zendesk) as client:
        async with database.transaction():
            await database.execute("LOCK TABLE operator_actions IN ACCESS EXCLUSIVE MODE")
            listing = [asyncio.create_task(_status(client, "/api/v1/actions")) for _ in range(20)]

            async def is_waited_for() -> bool:
                return await _waiting(database, "operator_actions") == 2

            await eventually(is_waited_for)
            taken = await _accepted(client, zendesk)
            done = sum(task.done() for task in listing)
        answers = await asyncio.gather(*listing)

    assert taken
    assert done == 0
    assert set(answers) == {200}


async def _waiting(database: asyncpg.Connection, table: str) -> int:
    locks = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass"
    return int(await database.fetchval(locks, table))


async def _status(client: Client, path: str) -> int:
    authorized = {"Authorization": f"Bearer {API_TOKEN}"}
    async with client.session.get(f"{client.url}{path}", headers=authorized) as response:
        await response.read()
        return response.status
