"""The webhook endpoint: each answer, and every webhook answered with 2xx is in Postgres byte for byte."""

import asyncio
import json

import asyncpg
import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.zendesk.signature import INVOCATION_ID
from tests.conftest import Client, Server, eventually
from tests.support.connections import is_down, is_up, metric
from tests.support.rows import bodies, count_saved, is_waiting_for_a_lock, locked
from tests.support.webhooks import (
    EVENT,
    MERGED,
    NO_HANG,
    TICKET,
    no_traceback,
    post,
    web_process,
)

__all__ = ["no_traceback"]  # a fixture for each test here

# Accepted, duplicate, ignored


async def test_new_webhook_is_accepted_and_saved_byte_for_byte(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    body = json.dumps(zendesk.payload(), indent=3).encode() + b" \r\n"

    answer = await post(client, body)

    assert answer.status == 200
    assert answer.json() == {"status": "accepted", "email_id": 1}
    assert await bodies(database) == [body]


async def test_repeated_webhook_is_a_duplicate_of_the_same_email(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    payload = zendesk.payload()
    first = await client.send(payload)

    again = await client.send(payload)

    assert again == {"status": "duplicate", "email_id": first["email_id"]}
    assert await count_saved(database) == 1


async def test_without_webhook_id_the_invocation_id_identifies_duplicates(
    client: Server, database: asyncpg.Connection
) -> None:
    statuses = [
        (await post(client, TICKET, **{INVOCATION_ID: invocation})).json()["status"]
        for invocation in ("one", "two", "one")
    ]

    assert statuses == ["accepted", "accepted", "duplicate"]
    assert await count_saved(database) == 2


async def test_200_concurrent_invocations_with_one_webhook_id_make_one_email(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    payload = zendesk.payload()

    receipts = await asyncio.gather(*(client.send(payload) for _ in range(200)))

    assert sorted(receipt["status"] for receipt in receipts) == ["accepted"] + ["duplicate"] * 199
    assert {receipt["email_id"] for receipt in receipts} == {receipts[0]["email_id"]}
    assert await count_saved(database) == 1


async def test_200_concurrent_emails_are_all_saved(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    receipts = await asyncio.gather(*(client.send(zendesk.payload(ticket_id=n)) for n in range(1, 201)))

    assert {receipt["status"] for receipt in receipts} == {"accepted"}
    assert await count_saved(database) == 200


async def test_two_different_emails_with_one_webhook_id_are_both_saved(
    client: Server, database: asyncpg.Connection
) -> None:
    first, second, third = (
        json.dumps({"ticket_id": 1, "webhook_id": "one", "subject": subject}).encode()
        for subject in ("first", "second", "third")
    )
    accepted = (await post(client, first)).json()

    answers = [(await post(client, body)).json() for body in (second, second, third)]

    assert answers == [{"status": "duplicate", "email_id": accepted["email_id"]}] * 3
    assert await bodies(database) == [first]
    assert await bodies(database, "quarantined_webhooks") == [second, third]
    codes = await database.fetch("SELECT DISTINCT error_code FROM quarantined_webhooks")
    assert [row["error_code"] for row in codes] == ["key_reused"]


async def test_event_of_unused_type_is_ignored_counted_by_type_and_saved(
    client: Server, database: asyncpg.Connection
) -> None:
    kind = "zen:event-type:ticket.priority_changed"
    sample = f'holdfast_ignored_events_total{{type="{kind}"}}'
    before = await metric(client, sample)

    body = json.dumps(EVENT | {"type": kind}, indent=3).encode()

    answers = [await post(client, body, **{INVOCATION_ID: "one"}) for _ in range(2)]

    row = await database.fetchrow("SELECT * FROM ignored_webhooks")
    assert [answer.json() for answer in answers] == [{"status": "ignored"}] * 2
    assert await metric(client, sample) == before + 2
    assert await bodies(database, "ignored_webhooks") == [body]
    assert (row["event_type"], row["invocation_id"], row["late"]) == (kind, "one", False)
    assert await count_saved(database) == 1


async def test_burst_of_ignored_events_is_saved_completely(
    client: Server, database: asyncpg.Connection
) -> None:
    sent = [EVENT | {"type": MERGED, "time": str(number % 100)} for number in range(200)]

    answers = await asyncio.gather(*(post(client, event) for event in sent))

    assert {answer.status for answer in answers} == {200}
    kept = await bodies(database, "ignored_webhooks")
    assert sorted(kept) == sorted({json.dumps(event).encode() for event in sent})


@pytest.mark.parametrize("kind", ["", '\n"}\\', "\0\ud800", "é" * 5000, "ticket.created"])
async def test_events_of_any_type_are_answered_and_metrics_stay_readable(
    kind: str, client: Server, database: asyncpg.Connection
) -> None:
    answer = await post(client, EVENT | {"type": f"zen:event-type:{kind}"})

    assert answer.json()["status"] == ("accepted" if kind == "ticket.created" else "ignored")
    async with client.session.get(f"{client.url}/metrics") as response:
        assert list(text_string_to_metric_families(await response.text()))


# Quarantined


UNREADABLE = {
    "empty": (b"", "not_json"),
    "not JSON": (b"ticket_id=1", "not_json"),
    "broken JSON": (b'{"ticket_id": 1, "organizationId": ,}', "not_json"),
    "NaN": (b'{"ticket_id": NaN}', "not_json"),
    "one byte": (b"\xff", "not_json"),
    "only a BOM": (b"\xef\xbb\xbf", "not_json"),
    "only NULs": (b"\0" * 64, "not_json"),
    "every byte": (bytes(range(256)), "not_json"),
    "a list": (b"[1]", "wrong_shape"),
    "a number": (b"12345678901234567890123456", "wrong_shape"),
    "null": (b"null", "wrong_shape"),
    "10,000 lists deep": (b"[" * 10_000 + b"]" * 10_000, "wrong_shape"),
    "a million lists deep": (b"[" * 1_000_000, "wrong_shape"),
    "10,000 objects deep": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "wrong_shape"),
    "an e-mail 10,000 deep": (b'{"ticket_id":1,"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "wrong_shape"),
    "attachments 10,000 deep": (
        json.dumps({"ticket_id": 1, "attachments": "[" * 10_000 + "]" * 10_000}).encode(),
        "wrong_shape",
    ),
    "attachments of a number": (b'{"ticket_id": 1, "attachments": 7}', "wrong_shape"),
    "an integer of 100,000 digits": (b'{"ticket_id": 1, "x": ' + b"9" * 100_000 + b"}", "not_json"),
    "a long ticket": (b'{"ticket_id": "' + b"1" * 900_000 + b'"}', "wrong_shape"),
    "two tickets under one key": (b'{"ticket_id": 1, "ticket_id": 2}', "duplicate_key"),
    "no ticket": (b'{"subject": "Invoice"}', "no_ticket"),
    "an empty ticket": (b'{"ticket_id": " "}', "no_ticket"),
    "an empty object": (b"{}", "no_ticket"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_signed_body_that_cannot_be_parsed_is_saved_unchanged(
    name: str, client: Server, database: asyncpg.Connection
) -> None:
    body, code = UNREADABLE[name]

    answer = await post(client, body)

    assert answer.status == 200
    assert answer.json() == {"status": "quarantined", "quarantine_id": 1}
    assert await bodies(database, "quarantined_webhooks") == [body]
    assert await database.fetchval("SELECT error_code FROM quarantined_webhooks") == code
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0


async def test_same_unparsable_invocation_is_quarantined_once(
    client: Server, database: asyncpg.Connection
) -> None:
    answers = await asyncio.gather(*(post(client, b"?", **{INVOCATION_ID: "one"}) for _ in range(50)))

    assert {answer.body for answer in answers} == {answers[0].body}
    assert answers[0].json()["status"] == "quarantined"
    assert await count_saved(database) == 1


async def test_different_unparsable_invocations_are_all_saved(
    client: Server, database: asyncpg.Connection
) -> None:
    await asyncio.gather(*(post(client, b"?") for _ in range(20)))

    assert await bodies(database, "quarantined_webhooks") == [b"?"] * 20


@pytest.mark.parametrize("invocation", ["one", None])
async def test_another_unparsable_body_of_the_same_invocation_is_saved_too(
    invocation: str | None, client: Server, database: asyncpg.Connection
) -> None:
    for body in (b"first", b"second"):
        await post(client, body, **{INVOCATION_ID: invocation})

    assert await bodies(database, "quarantined_webhooks") == [b"first", b"second"]


@pytest.mark.parametrize("body", [b"?", TICKET])
async def test_credentials_of_a_webhook_are_not_saved(
    body: bytes, client: Server, database: asyncpg.Connection
) -> None:
    secrets = {"Authorization": "Basic aG9sZA==", "Cookie": "a=hidden", "X_Api_Key": "hidden"}
    await post(client, body, **secrets, X_Other="kept")

    (row,) = await database.fetch(
        "SELECT raw_headers::text FROM incoming_emails"
        " UNION ALL SELECT raw_headers::text FROM quarantined_webhooks"
    )
    headers = dict(json.loads(row["raw_headers"]))
    assert headers["Authorization"] == headers["Cookie"] == headers["X-Api-Key"] == "[redacted]"
    assert headers["X-Other"] == "kept"
    assert "hidden" not in row["raw_headers"]


# Shutdown


async def test_running_request_is_answered_during_shutdown(
    settings: Settings, zendesk: Zendesk, res: Resources, database_url: str, database: asyncpg.Connection
) -> None:
    body = json.dumps(zendesk.payload()).encode()
    async with web_process(settings) as process:
        async with ClientSession() as session:
            client = Client(f"http://127.0.0.1:{process.port}", session, zendesk)
            await eventually(lambda: is_up(client))
            async with locked(database_url):
                answering = asyncio.create_task(post(client, body))
                await eventually(lambda: is_waiting_for_a_lock(database))
                process.terminate()
                await eventually(lambda: is_down(client))
                assert not answering.done()
            answer = await answering
        code = await asyncio.to_thread(process.wait, NO_HANG)

    assert answer.json()["status"] == "accepted"
    assert await bodies(database) == [body]
    assert code == 0
