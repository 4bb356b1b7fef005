"""The pages and the API of the quarantine: the place of a mistake, corrections, bulk actions, reused keys."""

import json
import re
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from service.config.settings import Settings
from service.resources import Resources
from tests.conftest import Server
from tests.support.access import READ_TOKEN
from tests.support.api import post_as_operator
from tests.support.commands import command
from tests.support.pages import HOSTILE, asking, press, read, words_of
from tests.support.retries import all_steps
from tests.support.rows import add_quarantined, add_quarantined_body

BROKEN = b'{"ticket_id": 4711,\n "subject": "He said "no""}'
CORRECTED = '{"ticket_id": 4711,\n "subject": "He said no"}'
API = "/api/v1/quarantine"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"api_read_token": SecretStr(READ_TOKEN)})


@pytest.fixture
async def webhook_id(database: asyncpg.Connection) -> int:
    return await add_quarantined_body(database, BROKEN)


@pytest.fixture
def corrected_file(tmp_path: Path) -> Path:
    file = tmp_path / "body.json"
    file.write_text(CORRECTED)
    return file


async def test_the_place_of_the_mistake_and_a_guess_are_shown(client: Server, webhook_id: int) -> None:
    listed, page = await read(client, "/quarantine"), await read(client, f"/quarantine/{webhook_id}")
    found = await client.get(f"{API}/{webhook_id}")

    assert 'Seems to be ticket 4711: He said "no"' in words_of(listed)
    assert "Line 2, column 23" in words_of(page)
    assert "He said &#34;<mark>n</mark>o&#34;" in page
    assert (found["mistake"]["line"], found["mistake"]["column"], found["mistake"]["at"]) == (2, 23, "n")
    assert found["guess"] == {"ticket": "4711", "subject": 'He said "no"'}


async def test_a_body_is_corrected_on_its_page(
    client: Server, database: asyncpg.Connection, webhook_id: int
) -> None:
    edit = f"/quarantine/{webhook_id}/edit"
    form = await read(client, edit)
    async with asking(client, edit, form={"body": BROKEN.decode() + " "}) as response:
        wrong = await response.text()
    # A browser sends CRLF for each line break.
    moved = await press(client, edit, body=CORRECTED.replace("\n", "\r\n"))
    email, webhook = await read(client, moved), await read(client, f"/quarantine/{webhook_id}")
    again, activity = await read(client, edit), await read(client, "/activity")

    assert "He said &#34;no&#34;&#34;}</textarea>" in form
    assert (response.status, "Not replayed: The body is not JSON" in wrong) == (409, True)
    assert "&#34;}\x20</textarea>" in wrong, "what was typed stays in the form"
    assert "corrected by" not in words_of(form)
    assert f"Made of request {webhook_id} in quarantine, with a body that api token corrected" in words_of(
        email
    )
    assert "Replayed" in words_of(webhook)
    assert "Corrected body" in words_of(webhook)
    assert (BROKEN.decode().split("\n")[0].replace('"', "&#34;") in webhook) is True
    assert "<textarea" not in again
    assert "correct corrected by api token: sha256" in words_of(activity)
    assert bytes(await database.fetchval("SELECT raw_body FROM incoming_emails")) == CORRECTED.encode()


async def test_a_body_is_corrected_through_the_api(client: Server, webhook_id: int) -> None:
    path = f"{API}/{webhook_id}/correct"
    refused = await post_as_operator(client, path, 409, body="{")
    made = await post_as_operator(client, path, 202, body=CORRECTED)
    again = await post_as_operator(client, path, 409, body=CORRECTED)
    found = await client.get(f"{API}/{webhook_id}")

    assert (refused["code"], again["code"]) == ("not_json", "already_replayed")
    assert made == {"status": "accepted", "email_id": 1}
    assert [each["by"] for each in found["corrections"]] == ["ada (api)"]
    assert found["body"].encode() == BROKEN


async def test_a_body_is_corrected_by_a_command(
    settings: Settings, webhook_id: int, corrected_file: Path
) -> None:
    done = await command(settings, "quarantine", "edit", str(webhook_id), "--file", str(corrected_file))

    assert (done.returncode, done.stdout) == (0, f"{webhook_id} accepted: e-mail 1\n")


async def test_readers_cannot_correct(client: Server, webhook_id: int) -> None:
    edit = f"/quarantine/{webhook_id}/edit"
    page = await read(client, edit, token=READ_TOKEN)
    async with asking(client, edit, form={"body": CORRECTED}, token=READ_TOKEN) as response:
        assert response.status == 403

    assert "<textarea" not in page


@pytest.mark.parametrize(
    "body",
    [
        b"\n" + HOSTILE.encode() + b"</textarea><script>alert(3)</script>",
        b"\0" * 1000,
        bytes(range(256)) * 20,
        "\u202e\u2066\u200b".encode() * 500,
        b'{"subject": "' + b"x" * 1_000_000,
        b"",
    ],
    ids=["html", "zeros", "bytes", "directions", "megabyte", "empty"],
)
async def test_a_hostile_body_is_only_text(client: Server, database: asyncpg.Connection, body: bytes) -> None:
    number = await add_quarantined_body(database, body)

    for path in ("/quarantine", f"/quarantine/{number}", f"/quarantine/{number}/edit"):
        page = await read(client, path)
        assert not re.search(r"<script>|<img src=x|</textarea>.*</textarea>", page, re.DOTALL), path
        assert len(page) < 2_000_000
        shown = page if not path.endswith("/edit") else page.partition("<textarea")[0]
        assert not {"\u202e", "\u2066", "\0"} & {*shown}, path


async def test_all_that_match_are_replayed_by_their_plan(
    client: Server, res: Resources, database: asyncpg.Connection, webhook_id: int
) -> None:
    await add_quarantined_body(database, CORRECTED.encode(), idempotency_key="two")
    await add_quarantined(database, "no_ticket")
    listed = await read(client, "/quarantine?error_code=not_json")
    plan = await read(client, "/quarantine/plan?action=replay&error_code=not_json")
    moved = await press(
        client, "/quarantine/actions", action="replay", error_code="not_json", per_second="20"
    )
    await all_steps(res, database)
    done, retries = await read(client, moved), await read(client, "/retries")
    left = await read(client, "/quarantine")

    assert "/quarantine/plan?action=replay&amp;error_code=not_json" in listed
    assert "no_ticket" not in listed
    assert "Replay 2 requests?" in words_of(plan)
    assert moved.startswith("/retries/1?")
    assert "1 replayed; 1 still no e-mail: they stay in quarantine." in words_of(done)
    assert "/quarantine?error_code=not_json" in retries
    assert f"Request {webhook_id}" in words_of(left)


async def test_all_that_match_are_dismissed_by_their_plan_and_through_the_api(
    client: Server, res: Resources, database: asyncpg.Connection
) -> None:
    await add_quarantined(database, "not_json", count=3)
    plan = await read(client, "/quarantine/plan?action=dismiss")
    async with asking(client, "/quarantine/actions", form={"action": "dismiss", "reason": ""}) as response:
        assert response.status == 409
    counted = await post_as_operator(client, f"{API}-actions", 200, filter={}, action="dismiss", dry_run=True)
    begun = await post_as_operator(client, f"{API}-actions", 202, filter={}, action="dismiss", reason=HOSTILE)
    await all_steps(res, database)
    dismissed = await read(client, "/quarantine?dismissed=true")

    assert 'name="reason"' in plan
    assert (counted["planned"], counted["bulk_retry_id"]) == (3, None)
    assert (begun["planned"], begun["bulk_retry_id"]) == (3, 1)
    assert words_of(dismissed).count("by ada (api)") == 3
    assert "/quarantine/plan?action=undismiss&amp;dismissed=true" in dismissed
    assert "<script>alert" not in dismissed
    assert (await client.get("/api/v1/retries/1"))["filter"]["dismissed"] is False


async def test_a_reused_key_is_shown_at_both_emails(client: Server) -> None:
    first = await client.send(json.dumps({"ticket_id": "1", "webhook_id": "fixed"}).encode())
    await client.send(json.dumps({"ticket_id": "2", "webhook_id": "fixed"}).encode())
    number = (await client.get(API))["quarantine"][0]["id"]
    before = await read(client, f"/emails/{first['email_id']}")
    webhook = await read(client, f"/quarantine/{number}")
    moved = await press(client, f"/quarantine/{number}/replay")
    other = int(re.search(r"/emails/(\d+)", moved)[1])  # type: ignore[index] # it has the form of a replay
    one, two = [words_of(await read(client, f"/emails/{each}")) for each in (first["email_id"], other)]

    assert f"Another webhook has the key of this e-mail, and another body: request {number}" in words_of(
        before
    )
    assert f"It has the key of e-mail {first['email_id']}" in words_of(webhook)
    assert f"another body: request {number} , now e-mail {other}" in one
    assert f"Its key was that of e-mail {first['email_id']} , which has another body" in two
