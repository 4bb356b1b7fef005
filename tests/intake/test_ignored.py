"""Ignored events are stored like all requests with a 2xx, and a replay makes e-mails of them once their type is used."""

import base64
import json
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.zendesk.signature import INVOCATION_ID
from tests.conftest import Client, Server, serving
from tests.support.commands import command
from tests.support.rows import NOON, bodies
from tests.support.webhooks import IGNORED as IGNORED_EVENT
from tests.support.webhooks import MERGED, post, signed

IGNORED = "/api/v1/ignored"
KIND, EVENT = MERGED, IGNORED_EVENT
TICKET = b'{"ticket_id": 4711, "subject": "Invoice"}'


async def keep(database: asyncpg.Connection, body: bytes = TICKET, **columns: object) -> int:
    """Store an event that an older parser ignored; return its id."""
    row = {
        "idempotency_key": f"sha256:{body!r}",
        "received_at": NOON,
        "event_type": KIND,
        "invocation_id": "one",
        "raw_body": body,
        "raw_headers": json.dumps([[INVOCATION_ID, "one"]]),
        **columns,
    }
    numbers = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    statement = f"INSERT INTO ignored_webhooks ({', '.join(row)}) VALUES ({numbers}) RETURNING id"
    number: int = await database.fetchval(statement, *row.values())
    return number


async def test_an_ignored_event_is_listed_and_shown_byte_for_byte(client: Server) -> None:
    await post(client, EVENT, **{INVOCATION_ID: "one"})

    (listed,) = (await client.get(IGNORED))["ignored"]
    shown = await client.get(f"{IGNORED}/{listed['id']}")

    assert (listed["event_type"], listed["size"], listed["late"]) == (KIND, len(EVENT), False)
    assert (listed["replayed_at"], listed["email_id"], listed["invocation_id"]) == (None, None, "one")
    assert shown.items() >= listed.items()
    assert base64.b64decode(shown["body_base64"]) == EVENT
    assert [INVOCATION_ID, "one"] in shown["headers"]
    assert (await client.get("/api/v1/stats"))["quarantined"] == 0


async def test_pages_of_ignored_events_neither_repeat_nor_skip(
    client: Server, database: asyncpg.Connection
) -> None:
    for number in range(5):
        await keep(database, b"%d" % number)
    first = await client.get(f"{IGNORED}?limit=3")
    second = await client.get(f"{IGNORED}?limit=3&cursor={first['next_cursor']}")

    assert [each["id"] for each in first["ignored"] + second["ignored"]] == [5, 4, 3, 2, 1]
    assert second["next_cursor"] is None


async def test_an_ignored_event_of_a_newly_used_type_becomes_an_email_on_replay(
    client: Server, database: asyncpg.Connection
) -> None:
    ignored_id = await keep(database, signature_hash=b"hash", late=True)

    answers: list[dict[str, Any]] = [await client.post(f"{IGNORED}/{ignored_id}/replay") for _ in range(2)]

    row = await database.fetchrow("SELECT * FROM incoming_emails")
    assert answers == [{"status": "accepted", "email_id": 1}, {"status": "duplicate", "email_id": 1}]
    assert (row["received_at"], row["subject"], row["idempotency_key"]) == (NOON, "Invoice", "one")
    assert (row["signature_hash"], row["late"]) == (b"hash", True)
    assert await bodies(database) == [TICKET]
    assert [each["id"] for each in (await client.get(f"{IGNORED}?replayed=true"))["ignored"]] == [ignored_id]
    (action,) = (await client.email(1))["actions"]
    assert (action["action"], action["quarantine_id"]) == ("replay_ignored", None)


async def test_a_request_repeated_after_its_replay_is_the_same_email(
    client: Server, database: asyncpg.Connection
) -> None:
    headers = signed(TICKET)
    await post(client, TICKET, **headers)
    row = await database.fetchrow("SELECT signature_hash FROM incoming_emails")
    await database.execute("TRUNCATE incoming_emails RESTART IDENTITY CASCADE")
    ignored_id = await keep(database, signature_hash=row["signature_hash"])
    await client.post(f"{IGNORED}/{ignored_id}/replay")

    answer = await post(client, TICKET, **headers, **{INVOCATION_ID: "two"})

    assert answer.json() == {"status": "duplicate", "email_id": 1}
    assert await bodies(database) == [TICKET]


async def test_an_event_that_is_still_not_used_stays_ignored(
    client: Server, database: asyncpg.Connection
) -> None:
    ignored_id = await keep(database, EVENT)

    problem = await client.post(f"{IGNORED}/{ignored_id}/replay", status=409)

    assert problem["code"] == "event_not_used"
    assert await bodies(database) == []
    assert (await client.get(f"{IGNORED}/{ignored_id}"))["replayed_at"] is None


@pytest.mark.parametrize("number", ["7", "0", "-1", "9" * 18, "one"])
async def test_an_unknown_id_is_not_found(client: Client, number: str) -> None:
    assert (await client.get(f"{IGNORED}/{number}", status=404))["status"] == 404
    assert (await client.post(f"{IGNORED}/{number}/replay", status=404))["status"] == 404


async def test_a_token_for_reading_may_not_replay(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    ignored_id = await keep(database)
    token = "token-of-those-who-look-only"
    headers = {"Authorization": f"Bearer {token}"}
    readable = settings.model_copy(update={"api_read_token": SecretStr(token)})
    async with serving(readable, zendesk) as client:
        place = f"{client.url}{IGNORED}/{ignored_id}"
        async with client.session.get(place, headers=headers) as response:
            looked = response.status
        async with client.session.post(f"{place}/replay", headers=headers) as response:
            replayed = response.status

    assert (looked, replayed) == (200, 403)
    assert await bodies(database) == []


async def test_the_command_line_lists_shows_and_replays_ignored_events(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    for body in (TICKET, EVENT):
        await keep(database, body)

    listed = await command(settings, "quarantine", "list", "--ignored")
    shown = await command(settings, "quarantine", "show", "2", "--ignored")
    raw = await command(settings, "quarantine", "show", "1", "--ignored", "--raw")
    waiting = await command(settings, "quarantine", "list")
    replayed = await command(settings, "quarantine", "replay", "--ignored", "--all")
    one = await command(settings, "quarantine", "replay", "--ignored", "2", "--json")

    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == ["2", "1"]
    assert KIND in shown.stdout
    assert raw.stdout.encode() == TICKET
    assert waiting.stdout == ""
    assert replayed.stdout.splitlines() == [
        "1 accepted: e-mail 1",
        "1 accepted, 0 duplicate, 0 refused, 1 not used",
    ]
    assert replayed.returncode == 0
    assert one.returncode == 1
    assert "cannot be replayed" in one.stderr
    assert await bodies(database) == [TICKET]
