"""Quarantined webhooks are shown byte for byte, and become one e-mail each once they can be parsed."""

import asyncio
import base64
import json
from datetime import datetime
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from arq.worker import Worker
from click.testing import CliRunner
from hypothesis import strategies as st
from multidict import CIMultiDict
from structlog.testing import capture_logs

from service import intake
from service.cli.main import main
from service.config.settings import Settings
from service.errors import Rejected, Transient
from service.intake import IntakeResult
from service.local.zendesk.stand_in import Zendesk
from service.operate.replay import replay_webhook
from service.resources import Resources
from service.zendesk.signature import INVOCATION_ID
from tests.conftest import API_TOKEN, Client, Server, eventually, serving
from tests.support.any_webhook import Case, headers, try_many, written
from tests.support.commands import command
from tests.support.forked import Done
from tests.support.proxy import before_postgres
from tests.support.rows import (
    NOON,
    QUARANTINED_BODY,
    QUARANTINED_HEADERS,
    add_quarantined_body,
    bodies,
    count_saved,
    delete_emails,
)

QUARANTINE = "/api/v1/quarantine"
NEXT_STEP = "`holdfast quarantine edit ID` corrects one; if all come like this, correct the trigger's template in Zendesk."
EVENT = (
    b'{"type": "zen:event-type:ticket.priority_changed", "id": "x", "subject": "zen:ticket:1", "account_id": 1,'
    b' "detail": {"id": "1"}, "event": {"current": "HIGH", "previous": "LOW"}}'
)


async def keep_many(database: asyncpg.Connection, number: int) -> None:
    for _ in range(number):
        key = f"key {await count_saved(database)}"
        await add_quarantined_body(database, idempotency_key=key)


async def kept(database: asyncpg.Connection, quarantine_id: int = 1) -> dict[str, Any]:
    return dict(await database.fetchrow("SELECT * FROM quarantined_webhooks WHERE id = $1", quarantine_id))


async def replay(client: Client, quarantine_id: int = 1, status: int = 202) -> dict[str, Any]:
    return await client.post(f"{QUARANTINE}/{quarantine_id}/replay", status)


async def replay_at_last(client: Client, quarantine_id: int = 1) -> dict[str, Any]:
    """Replay, and repeat after a transient error."""
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    url = f"{client.url}{QUARANTINE}/{quarantine_id}/replay"

    async def answered() -> dict[str, Any] | None:
        async with client.session.post(url, headers=headers) as response:
            assert response.status in {202, 503}, await response.text()
            answer: dict[str, Any] = await response.json(content_type=None)
            return answer if response.status == 202 else None

    return await eventually(answered)


async def ids(client: Client, query: str = "") -> list[int]:
    return [webhook["id"] for webhook in (await client.get(f"{QUARANTINE}{query}"))["quarantine"]]


# ── lists and details


async def test_the_list_has_open_webhooks_and_on_request_replayed_ones(
    client: Client, database: asyncpg.Connection
) -> None:
    await keep_many(database, 4)
    receipt = await replay(client, 2)

    assert await ids(client) == [4, 3, 1]
    assert await ids(client, "?replayed=false") == [4, 3, 1]
    assert await ids(client, "?replayed=true") == [2]
    assert (await client.get("/api/v1/stats"))["quarantined"] == 3
    (replayed,) = (await client.get(f"{QUARANTINE}?replayed=true"))["quarantine"]
    assert datetime.fromisoformat(replayed.pop("replayed_at")) > NOON
    assert datetime.fromisoformat(replayed.pop("received_at")) == NOON
    assert replayed == {
        "id": 2,
        "account_id": "21978514",
        "invocation_id": "one",
        "error_code": "not_json",
        "error": "It was not read then.",
        "size": len(QUARANTINED_BODY),
        "email_id": receipt["email_id"],
        "late": False,
        "dismissal": None,
        "guess": {"ticket": "4711", "subject": "Invoice"},
    }


async def test_a_request_from_before_there_were_replays_is_open(
    client: Client, database: asyncpg.Connection
) -> None:
    await add_quarantined_body(database)

    (webhook,) = (await client.get(QUARANTINE))["quarantine"]

    assert (webhook["replayed_at"], webhook["email_id"]) == (None, None)


@pytest.mark.parametrize("replayed", ["false", "true"])
async def test_pages_neither_repeat_nor_skip_while_webhooks_arrive(
    client: Client, database: asyncpg.Connection, replayed: str
) -> None:
    await keep_many(database, 5)
    await database.execute("UPDATE quarantined_webhooks SET replayed_at = now() WHERE $1", replayed == "true")
    pages: list[list[int]] = []
    query = f"?limit=2&replayed={replayed}"
    while True:
        page = await client.get(f"{QUARANTINE}{query}")
        pages.append([webhook["id"] for webhook in page["quarantine"]])
        await keep_many(database, 1)
        if page["next_cursor"] is None:
            break
        query = f"?limit=2&replayed={replayed}&cursor={quote(page['next_cursor'])}"

    assert pages == [[5, 4], [3, 2], [1]]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "bad_parameter"),
        ("limit=201", "bad_parameter"),
        ("replayed=maybe", "bad_parameter"),
        ("replayed=", "bad_parameter"),
        ("status=failed", "bad_parameter"),
        ("cursor=x", "bad_cursor"),
        ("cursor=MjAyNS0xMS0wM1QxMjowMDowMCswMDowMA==", "bad_cursor"),
    ],
)
async def test_a_wrong_parameter_is_named(client: Client, query: str, code: str) -> None:
    problem = await client.get(f"{QUARANTINE}?{query}", status=400)

    assert problem["code"] == code
    assert query.partition("=")[0] in problem["detail"]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"ticket_id": \xff\xfe\0}', '{"ticket_id": \ufffd\ufffd\0}'),
        (b"", ""),
        ("{Grüße €\x1b[2J".encode(), "{Grüße €\x1b[2J"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (bytes(range(256)) * 1000, (bytes(range(256)) * 1000).decode(errors="replace")),
    ],
)
async def test_a_quarantined_webhook_is_shown_byte_for_byte(
    client: Client, zendesk: Zendesk, body: bytes, shown: str
) -> None:
    sent: dict[str, str | None] = {"Authorization": "Basic aGlkZGVu", "X-Other": "one"}
    receipt = (await zendesk.send(client.webhook, body, headers=sent)).json()

    webhook = await client.get(f"{QUARANTINE}/{receipt['quarantine_id']}")
    (listed,) = (await client.get(QUARANTINE))["quarantine"]

    assert webhook.items() >= listed.items()
    more = {"headers", "body", "body_base64", "mistake", "same_key_email_id", "corrections"}
    assert set(webhook) - set(listed) == more
    assert base64.b64decode(webhook["body_base64"], validate=True) == body
    assert (webhook["body"], webhook["size"]) == (shown, len(body))
    assert ["Authorization", "[redacted]"] in webhook["headers"]
    assert ["X-Other", "one"] in webhook["headers"]


async def test_headers_that_are_not_utf8_are_shown_as_far_as_json_allows(
    client: Client, database: asyncpg.Connection
) -> None:
    await add_quarantined_body(database, raw_headers=r'[["X-Other", "\udcff"], ["X-Other", "\u0000"]]')

    webhook = await client.get(f"{QUARANTINE}/1")

    assert webhook["headers"] == [["X-Other", "\udcff"], ["X-Other", "\0"]]


@pytest.mark.parametrize("number", ["7", "0", "-1", "9" * 18, "9" * 30, "one", "%00"])
async def test_an_unknown_id_is_not_found(client: Client, number: str) -> None:
    assert (await client.get(f"{QUARANTINE}/{number}", status=404))["status"] == 404
    assert (await client.post(f"{QUARANTINE}/{number}/replay", status=404))["status"] == 404


# ── replay


async def test_a_replay_makes_an_email_with_the_original_time_of_receipt(
    client: Server, database: asyncpg.Connection
) -> None:
    await add_quarantined_body(database)

    answer = await replay(client)

    email = await client.until(1, "queued")
    assert answer == {"status": "accepted", "email_id": 1}
    assert datetime.fromisoformat(email["received_at"]) == NOON
    assert (email["zendesk_ticket_id"], email["subject"]) == ("4711", "Invoice")
    assert (email["account_id"], email["invocation_id"]) == ("21978514", "one")
    assert email["idempotency_key"] == "one"
    raw = await database.fetchrow("SELECT raw_body, raw_headers FROM incoming_emails")
    assert (raw["raw_body"], json.loads(raw["raw_headers"])) == (QUARANTINED_BODY, QUARANTINED_HEADERS)
    row = await kept(database)
    assert (row["email_id"], row["raw_body"]) == (1, QUARANTINED_BODY)
    assert row["replayed_at"] is not None


async def test_a_worker_completes_a_replayed_email_with_its_files(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    files = {"invoice.pdf": b"%PDF-1.7\n" + bytes(range(256)), "list.csv": b"a,b\n1,2\n"}
    urls = [zendesk.add_file(name, content) for name, content in files.items()]
    await add_quarantined_body(database, json.dumps(zendesk.payload(attachments=urls)).encode())

    receipt = await replay(client)

    email = await client.until(receipt["email_id"], "completed", "failed")
    assert email["processing_status"] == "completed", email
    assert datetime.fromisoformat(email["received_at"]) == NOON
    for attachment, content in zip(email["attachments"], files.values(), strict=True):
        authorized = {"Authorization": f"Bearer {API_TOKEN}"}
        async with client.session.get(client.url + attachment["href"], headers=authorized) as response:
            assert await response.read() == content


async def test_a_replay_records_what_the_webhook_would_have_recorded(
    res: Resources, database: asyncpg.Connection
) -> None:
    """The key is the same, too, so that each e-mail is recorded once."""

    async def recorded() -> list[dict[str, Any]]:
        rows = await database.fetch(
            "SELECT * FROM incoming_emails e LEFT JOIN attachments a ON a.email_id = e.id ORDER BY a.position"
        )
        passing = {
            "id",
            "email_id",
            "due_at",
            "queued_at",
            "sync_due_at",
            "sync_begun_at",
            "processing_status",
        }
        return [{name: row[name] for name in set(row.keys()) - passing} for row in rows]

    async def check(case: Case) -> None:
        await delete_emails(database)
        if (await intake.accept(res, *case)).status != "accepted":
            return
        accepted = await recorded()
        await delete_emails(database)
        row = {
            name: accepted[0][name] for name in ("received_at", "account_id", "invocation_id", "raw_headers")
        }
        quarantine_id = await add_quarantined_body(database, case[1], **row)

        receipt = await replay_webhook(res, quarantine_id, "tests")

        assert receipt.status == "accepted"
        assert await recorded() == accepted

    await try_many(st.tuples(headers, written), check)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"?", "not_json"),
        (b"[1]", "wrong_shape"),
        (b'{"subject": "Invoice"}', "no_ticket"),
        (EVENT, "event_not_used"),
    ],
)
async def test_a_webhook_that_still_cannot_be_parsed_keeps_the_newest_reason(
    client: Client, database: asyncpg.Connection, body: bytes, code: str
) -> None:
    await add_quarantined_body(
        database, body, error_code="read_worse", error="It was read by an older parser."
    )
    before = await kept(database)

    problem = await replay(client, status=409)
    again = await replay(client, status=409)

    after = await kept(database)
    assert (problem["code"], again) == (code, problem)
    assert problem["detail"] == f"Quarantined webhook 1 cannot be replayed: {after['error']}"
    assert after == {**before, "error_code": code, "error": after["error"]}
    assert after["error"] != before["error"]
    assert await bodies(database) == []
    assert await ids(client) == [1]


async def test_a_second_replay_is_a_duplicate(client: Client, database: asyncpg.Connection) -> None:
    await add_quarantined_body(database)
    first = await replay(client)
    marked = await kept(database)

    again = [await replay(client) for _ in range(3)]

    assert first == {"status": "accepted", "email_id": 1}
    assert again == [{"status": "duplicate", "email_id": 1}] * 3
    assert await kept(database) == marked
    assert await bodies(database) == [QUARANTINED_BODY]


@pytest.mark.parametrize("body", [QUARANTINED_BODY, b'{"ticket_id": 1, "webhook_id": "two"}'])
@pytest.mark.parametrize("first", ["the replay", "the webhook"])
async def test_a_webhook_that_zendesk_repeated_meanwhile_is_the_same_email(
    client: Client, zendesk: Zendesk, database: asyncpg.Connection, body: bytes, first: str
) -> None:
    await add_quarantined_body(database, body)

    async def send() -> Any:
        return (await zendesk.send(client.webhook, body, headers={INVOCATION_ID: "one"})).json()

    if first == "the replay":
        answers = [await replay(client), await send()]
    else:
        answers = [await send(), await replay(client)]

    assert answers == [{"status": status, "email_id": 1} for status in ("accepted", "duplicate")]
    assert await bodies(database) == [body]
    assert (await kept(database))["email_id"] == 1


async def test_two_emails_with_one_key_are_two_after_a_replay_and_stay_two(
    client: Client, zendesk: Zendesk, worker: Worker, database: asyncpg.Connection
) -> None:
    urls = [zendesk.add_file(name, name.encode()) for name in ("one.txt", "two.txt")]
    payloads = [zendesk.payload(attachments=[url], webhook_id="the same for all") for url in urls]
    receipts = [await client.send(payload) for payload in payloads]
    (waiting,) = (await client.get(QUARANTINE))["quarantine"]

    answer = await replay(client, waiting["id"])

    emails = [await client.until(number, "completed", "failed") for number in (1, answer["email_id"])]
    repeated = [await client.send(payload) for payload in payloads]
    assert receipts == [{"status": "accepted", "email_id": 1}, {"status": "duplicate", "email_id": 1}]
    assert waiting["error_code"] == "key_reused"
    assert answer["status"] == "accepted"
    assert [[file["file_name"] for file in email["attachments"]] for email in emails] == [
        ["one.txt"],
        ["two.txt"],
    ]
    assert [email["processing_status"] for email in emails] == ["completed"] * 2
    assert [receipt["status"] for receipt in repeated] == ["duplicate"] * 2
    assert await replay(client, waiting["id"]) == {**answer, "status": "duplicate"}
    assert len(await bodies(database)) == 2
    assert len(await bodies(database, "quarantined_webhooks")) == 1


async def test_a_body_with_a_reused_body_key_stays_in_quarantine(
    client: Client, database: asyncpg.Connection
) -> None:
    """Only malice leads there, and it affects no other e-mail."""
    await add_quarantined_body(database)
    for key in ("one", intake.body_key(QUARANTINED_BODY)):
        await database.execute(
            "INSERT INTO incoming_emails (zendesk_ticket_id, raw_body, idempotency_key) VALUES ('1', '?', $1)",
            key,
        )

    problem = await replay(client, status=409)

    assert problem["code"] == "key_reused"
    assert await bodies(database) == [b"?", b"?"]
    assert await ids(client) == [1]


# ── concurrent and interrupted replays


@pytest.mark.parametrize("kind", ["a new one", "a key that is reused"])
async def test_a_thousand_concurrent_replays_make_one_email(
    client: Server, database: asyncpg.Connection, kind: str
) -> None:
    await add_quarantined_body(database)
    if kind == "a key that is reused":
        await intake.accept(client.res, CIMultiDict({INVOCATION_ID: "one"}), b'{"ticket_id": 1}')

    answers = await asyncio.gather(*(replay_at_last(client) for _ in range(1000)))

    assert len({answer["email_id"] for answer in answers}) == 1
    assert [answer["status"] for answer in answers].count(
        "accepted"
    ) <= 1  # an interrupted replay recorded it
    assert (await bodies(database)).count(QUARANTINED_BODY) == 1
    assert (await kept(database))["email_id"] == answers[0]["email_id"]


async def test_a_connection_broken_at_any_chunk_loses_and_doubles_nothing(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """The connection breaks during any statement."""
    broken = 0
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        for number, arrives in ((number, arrives) for number in range(16) for arrives in (True, False)):
            name = f"{number}-{arrives}"
            body = json.dumps(zendesk.payload(subject=name)).encode()
            quarantine_id = await add_quarantined_body(database, body, idempotency_key=name)
            proxy.drop()
            proxy.trip(b"", arrives=arrives, cuts=False, skip=number)
            try:
                await replay_webhook(client.res, quarantine_id, "tests")
            except Transient:
                broken += 1
            await proxy.resume()

            answer = await replay_at_last(client, quarantine_id)

            assert (await bodies(database)).count(body) == 1
            row = await kept(database, quarantine_id)
            assert row["email_id"] == answer["email_id"]
            assert row["replayed_at"] is not None
    assert broken >= 8


async def test_a_replay_that_is_cut_off_before_its_mark_leaves_nothing_and_is_repeated(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    await add_quarantined_body(database)
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        await intake.accept(client.res, CIMultiDict(), b'{"ticket_id": 1}')  # the connection is open
        proxy.drop()
        proxy.trip(b"UPDATE quarantined_webhooks", arrives=False, cuts=True)
        cut_off = await replay(client, status=503)
        between = ((await kept(database))["replayed_at"], (await bodies(database)).count(QUARANTINED_BODY))
        await proxy.resume()

        healed = await replay_at_last(client)

    assert cut_off["code"] == "database_disconnected"
    assert between == (None, 0)
    assert healed["status"] == "accepted"
    assert (await kept(database))["email_id"] == healed["email_id"]
    assert (await bodies(database)).count(QUARANTINED_BODY) == 1


async def test_the_log_has_ids_and_nothing_of_the_request(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_quarantined_body(database, b'{"ticket_id": 1, "subject": "hunter2", "webhook_id": "hunter2"}')
    await add_quarantined_body(database, b"hunter2", idempotency_key="two")

    with capture_logs() as logs:
        receipt = await replay_webhook(res, 1, "tests")
        with pytest.raises(Rejected):
            await replay_webhook(res, 2, "tests")

    assert receipt == IntakeResult("accepted", 1)
    assert {
        "event": "webhook_replayed",
        "log_level": "info",
        "quarantine": 1,
        "email": 1,
        "status": "accepted",
    } in logs
    assert "hunter2" not in str(logs)


# ── on the command line


async def run(settings: Settings, *words: str, **changes: str) -> Done:
    """Run `holdfast quarantine` as an operator does."""
    return await command(settings, "quarantine", *words, **{"COLUMNS": "200", **changes})


async def test_the_table_has_open_webhooks_and_no_control_characters(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    await add_quarantined_body(database)
    await add_quarantined_body(
        database, idempotency_key="two", invocation_id="\x1b]0;owned\x07\u202e", error="[red]\x9b2J\r\n"
    )
    await replay_webhook(res, 1, "tests")

    waiting = await run(settings, "list", "--limit", "5", FORCE_COLOR="1", TERM="xterm-256color")
    replayed = await run(settings, "list", "--replayed")

    assert (waiting.returncode, waiting.stderr, replayed.returncode, replayed.stderr) == (0, "", 0, "")
    assert "\ufffd]0;owned\ufffd\ufffd" in waiting.stdout
    assert "[red]\ufffd2J\ufffd\ufffd" in waiting.stdout
    assert not {"\x07", "\x9b", "\r", "\u202e"} & set(waiting.stdout)
    assert "\x1b]" not in waiting.stdout
    assert "It was not read then." not in waiting.stdout
    size = str(len(QUARANTINED_BODY))
    row = ["1", "21978514", "one", size, "2025-11-03 12:00:00 UTC", "1", "not_json", "It was not read then."]
    assert replayed.stdout.splitlines() == ["\t".join(row)]


async def test_show_prints_the_response_of_the_api(
    settings: Settings, client: Client, database: asyncpg.Connection
) -> None:
    await add_quarantined_body(database, b"\xff\x1b[2J", raw_headers=r'[["X-Other", "\udcff"]]')

    done = await run(settings, "show", "1", "--json")
    page = await run(settings, "show", "1")

    assert (done.returncode, done.stderr) == (page.returncode, page.stderr) == (0, "")
    assert "\x1b" not in done.stdout + page.stdout
    assert "X-Other:" in page.stdout
    assert page.stdout.endswith("\ufffd\ufffd[2J\n")
    shown = json.loads(done.stdout)
    assert shown == await client.get(f"{QUARANTINE}/1")
    assert base64.b64decode(shown["body_base64"]) == b"\xff\x1b[2J"


async def test_replay_makes_emails_and_names_its_failures(
    settings: Settings, database: asyncpg.Connection
) -> None:
    await add_quarantined_body(database)
    await add_quarantined_body(database, b"[1]", idempotency_key="two")

    done = await run(settings, "replay", "1", "2", "3", "1")
    again = await run(settings, "replay", "1", REDIS_URL="redis://127.0.0.1:1")

    assert done.stdout == "1 accepted: e-mail 1\n1 duplicate: e-mail 1\n"
    assert done.stderr == (
        "Quarantined webhook 2 cannot be replayed: The body is JSON, but not an object.\n"
        "There is no quarantined webhook 3. `holdfast quarantine list` lists the newest.\n"
        f"{NEXT_STEP}\n"
    )
    assert done.returncode == 1
    assert (again.returncode, again.stdout, again.stderr) == (0, "1 duplicate: e-mail 1\n", "")
    assert await bodies(database) == [QUARANTINED_BODY]


async def test_replay_all_takes_open_webhooks_oldest_first_and_prints_totals(
    settings: Settings, database: asyncpg.Connection
) -> None:
    await add_quarantined_body(database)
    await add_quarantined_body(database, EVENT.replace(b"priority", b"\\u001b[2J"), idempotency_key="two")
    await add_quarantined_body(database, idempotency_key="three")
    await add_quarantined_body(database, b'{"ticket_id": 2, "webhook_id": "two"}', idempotency_key="four")

    some = await run(settings, "replay", "--all")
    await database.execute("DELETE FROM quarantined_webhooks WHERE id = 2")
    rest = await run(settings, "replay", "--all")

    last = await database.fetchval("SELECT max(id) FROM incoming_emails")
    assert some.stdout == (
        "1 accepted: e-mail 1\n3 duplicate: e-mail 1\n"
        f"4 accepted: e-mail {last}\n2 accepted, 1 duplicate, 1 refused\n"
    )
    assert some.stderr == (
        "Quarantined webhook 2 cannot be replayed: Events of this type are not used:"
        f" zen:event-type:ticket.\ufffd[2J_changed.\n{NEXT_STEP}\n"
    )
    assert some.returncode == 1
    assert (rest.returncode, rest.stdout, rest.stderr) == (0, "0 accepted, 0 duplicate, 0 refused\n", "")
    assert await bodies(database) == [QUARANTINED_BODY, b'{"ticket_id": 2, "webhook_id": "two"}']


@pytest.mark.parametrize(
    "words", [("replay",), ("replay", "1", "--all"), ("show", "one"), ("list", "--limit", "0")]
)
def test_an_unknown_argument_is_a_usage_error(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, ["quarantine", *words])

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")


@pytest.mark.parametrize("words", [("list",), ("show", "1"), ("replay", "1"), ("replay", "--all")])
async def test_without_postgres_a_command_ends_with_one_line(
    settings: Settings, words: tuple[str, ...]
) -> None:
    done = await run(settings, *words, DATABASE_URL="postgres://user:hunter2@127.0.0.1:1/name")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Postgres cannot be reached: ConnectionRefusedError."
        " Check DATABASE_URL, and that Postgres runs; `holdfast check` tells more.\n"
    )


async def test_an_unknown_id_is_reported_in_one_line(
    settings: Settings, database: asyncpg.Connection
) -> None:
    for word in ("show", "replay"):
        done = await run(settings, word, "7")

        said = "There is no quarantined webhook 7. `holdfast quarantine list` lists the newest.\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
