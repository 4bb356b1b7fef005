"""The look-up of a ticket: what was sent is kept, once, whatever the webhooks say and in whichever order they come."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

import asyncpg
import pytest
from arq.worker import Worker

from service.capture.attempt import process
from service.config.settings import Settings
from service.jobs import messages
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources, open_resources
from service.zendesk.signature import ACCOUNT_ID
from tests.conftest import Client, eventually, serving, working
from tests.support.files import PDF
from tests.support.rows import add

PNG = b"\x89PNG\r\n\x1a\n"


async def ended(database: asyncpg.Connection, number: int) -> Sequence[asyncpg.Record]:
    """Wait until so many e-mails have ended, and no other is on its way."""

    async def rows() -> Sequence[asyncpg.Record] | None:
        found = await database.fetch("SELECT * FROM incoming_emails ORDER BY id")
        over = [row for row in found if row["processing_status"] in {"completed", "failed"}]
        return found if len(over) == len(found) == number else None

    return await eventually(rows)


def record(settings: Settings, message: asyncpg.Record) -> dict[str, Any]:
    objects = Path((settings.storage_url or "").removeprefix("file://"))
    kept: dict[str, Any] = json.loads((objects / message["record_key"]).read_bytes())
    return kept


async def test_a_message_is_kept_as_it_was_sent(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection, settings: Settings
) -> None:
    file, logo = zendesk.add_file("a.pdf", PDF), zendesk.add_file("logo.png", PNG)
    comment_id = zendesk.add_email(
        77,
        subject="Kündigung V-4711",
        cc=[("Tom", "tom@customer.example")],
        text="Guten Tag",
        html=f'<p>Guten Tag <img src="{logo}"></p>',
        attachments=[file],
        inline=[logo],
    )

    await client.send(zendesk.announcement(77, comment_id))
    (email,) = await ended(database, 1)
    message = await database.fetchrow("SELECT * FROM messages")

    assert (email["processing_status"], email["processing_error"]) == ("completed", None)
    assert (email["comment_id"], email["identified"]) == (str(comment_id), True)
    assert (email["subject"], email["from_email"]) == ("Kündigung V-4711", "mara@customer.example")
    assert message is not None
    assert (message["subject"], message["text"], message["direction"]) == (
        "Kündigung V-4711",
        "Guten Tag",
        "inbound",
    )
    assert json.loads(message["cc"]) == [{"name": "Tom", "address": "tom@customer.example"}]
    assert await asyncio.to_thread(record, settings, message) == zendesk.state.comments["77"][0]
    files = await database.fetch("SELECT file_name, status, inline FROM attachments ORDER BY position")
    assert [tuple(row) for row in files] == [("a.pdf", "stored", False), ("logo.png", "stored", True)]


@pytest.mark.parametrize("workers", [1, 2])
async def test_ten_emails_of_a_ticket_at_once_cost_three_calls(
    workers: int, client: Client, zendesk: Zendesk, database: asyncpg.Connection, settings: Settings
) -> None:
    """The lease of a ticket is the same for all workers."""
    comments = [zendesk.add_email(77, text=f"number {number}") for number in range(10)]
    for comment_id in comments:
        await client.send(zendesk.announcement(77, comment_id))

    async with AsyncExitStack() as stack:
        for _ in range(workers):
            await stack.enter_async_context(working(settings))
        emails = await ended(database, 10)

    assert {email["comment_id"] for email in emails} == set(map(str, comments))
    assert zendesk.state.api_calls <= 3, zendesk.state.calls


async def test_pages_of_a_long_ticket_are_read_once_for_all_emails_that_wait(
    client: Client, zendesk: Zendesk, database: asyncpg.Connection, settings: Settings
) -> None:
    """Their comments are on the third page; the attempt that reads it keeps them for the others, and no more."""
    wanted = [zendesk.add_email(77, text=f"wanted {number}") for number in range(3)]
    for number in range(210):
        zendesk.add_comment(77, channel="web", author=("Agent", "agent@acme.example"), body=f"{number}")
    for comment_id in wanted:
        await client.send(zendesk.announcement(77, comment_id))

    async with working(settings):
        emails = await ended(database, 3)

    assert {email["comment_id"] for email in emails} == set(map(str, wanted))
    assert await database.fetchval("SELECT array_agg(text ORDER BY text) FROM messages") == [
        f"wanted {number}" for number in range(3)
    ]
    assert zendesk.state.lookups == {"77": 3}, "a call for each page"


async def test_emails_that_wait_for_one_look_up_take_one_attempt_each(
    client: Client, zendesk: Zendesk, database: asyncpg.Connection, settings: Settings
) -> None:
    """All attempts wait for the answer, and then see the files that it lists."""
    for number in range(5):
        file = zendesk.add_file(f"{number}.pdf", PDF + bytes([number]))
        await client.send(zendesk.announcement(77, zendesk.add_email(77, attachments=[file])))
    zendesk.state.api_faults.append(Fault(delay_seconds=1))

    async with working(settings):
        emails = await ended(database, 5)

    assert {email["processing_status"] for email in emails} == {"completed"}
    assert await database.fetchval("SELECT count(*) FROM attempts") == 5


async def test_three_announcements_of_a_comment_are_one_email(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    files = [zendesk.add_file(name, PDF + name.encode()) for name in ("a.pdf", "b.pdf")]
    comment_id = zendesk.add_email(77, attachments=files)
    bodies: list[dict[str, Any]] = [
        zendesk.announcement(77, comment_id),
        *(zendesk.event(url, ticket_id=77) for url in files),
    ]
    for body in bodies[1:]:
        body["event"]["comment"]["id"] = str(comment_id)

    for body in bodies:
        await client.send(body)
    (email,) = await ended(database, 1)
    announced = await database.fetch("SELECT raw_body FROM announcements ORDER BY id")

    assert email["processing_status"] == "completed"
    assert [json.loads(email["raw_body"]), *(json.loads(row[0]) for row in announced)] == bodies
    assert await database.fetchval("SELECT array_agg(status) FROM attachments") == ["stored", "stored"]
    assert [zendesk.file(url).downloads for url in files] == [1, 1]


async def test_files_that_come_with_a_later_announcement_reopen_the_email(
    client: Client, zendesk: Zendesk, database: asyncpg.Connection, settings: Settings
) -> None:
    """Without credentials, the webhooks alone tell the files."""
    without = settings.model_copy(
        update={"zendesk_oauth_client_id": None, "zendesk_oauth_client_secret": None}
    )
    urls = [zendesk.add_file(name, PDF + name.encode(), public=True) for name in ("a.pdf", "b.pdf")]
    events = [zendesk.event(url, ticket_id=77) for url in urls]
    events[1]["event"]["comment"]["id"] = events[0]["event"]["comment"]["id"]
    async with serving(without, zendesk) as served, working(without):
        await served.send(events[0])
        await ended(database, 1)
        await served.send(events[1])

        async def both() -> bool:
            statuses = await database.fetchval("SELECT array_agg(status) FROM attachments")
            return bool(statuses == ["stored", "stored"])

        await eventually(both)
        (email,) = await ended(database, 1)

    assert email["processing_status"] == "completed"


async def test_a_quick_pair_of_which_both_webhooks_name_the_second_is_two_emails(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    first, second = (zendesk.add_email(77, text=text) for text in ("first", "second"))

    for _ in range(2):
        await client.send(zendesk.announcement(77, second))
    emails = await ended(database, 2)

    assert {email["comment_id"] for email in emails} == {str(first), str(second)}
    texts = await database.fetch("SELECT text FROM messages")
    assert sorted(row["text"] for row in texts) == ["first", "second"]


async def test_a_webhook_that_names_no_comment_becomes_one_with_another_of_its_comment(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    url = zendesk.add_file("a.pdf", PDF)
    comment_id = zendesk.add_email(77, attachments=[url])

    await client.send(zendesk.announcement(77, comment_id))
    await ended(database, 1)
    receipt = await client.send(zendesk.payload(ticket_id=77, attachments=[url]))

    async def merged() -> bool:
        return bool(await database.fetchval("SELECT count(*) FROM merged_emails") == 1)

    await eventually(merged)
    (email,) = await ended(database, 1)

    assert email["id"] != receipt["email_id"]
    assert await database.fetchval("SELECT count(*) FROM announcements") == 1
    assert await database.fetchval("SELECT count(*) FROM attachments WHERE status = 'stored'") == 1


async def test_a_webhook_with_files_of_the_whole_ticket_waits_for_the_comment_of_the_new_one(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection, res: Resources
) -> None:
    """It is no further announcement of the e-mail that has the others, although Zendesk shows only that one yet."""
    patient = settings.model_copy(update={"early_seconds": 60})
    old, new = (zendesk.add_file(name, PDF + name.encode()) for name in ("a.pdf", "b.pdf"))
    first = zendesk.add_email(77, attachments=[old], created_at=datetime.now(UTC) - timedelta(minutes=30))

    async with serving(patient, zendesk) as served, working(patient):
        await served.send(zendesk.announcement(77, first))
        await ended(database, 1)
        await served.send({"ticket_id": 77, "attachments": [old, new]})

        async def asked() -> bool:
            return zendesk.state.lookups["77"] > 1

        await eventually(asked)
        second = zendesk.add_email(77, attachments=[new])
        emails = await ended(database, 2)

    assert [email["comment_id"] for email in emails] == [str(first), str(second)]
    files = await database.fetch("SELECT email_id, source_url FROM attachments ORDER BY email_id, position")
    assert [tuple(file) for file in files] == [
        (emails[0]["id"], old),
        (emails[1]["id"], old),
        (emails[1]["id"], new),
    ]


async def test_a_template_with_the_tickets_id_as_that_of_the_comment_makes_an_email_of_each(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Administrators write `"comment": {"id": "{{ticket.id}}"}`: that would be one comment for the whole ticket."""
    for number in range(2):
        zendesk.add_email(77, text=f"number {number}")
        await client.send({"ticket_id": "77", "comment": {"id": "77", "body": f"number {number}"}})
        emails = await ended(database, number + 1)

    assert [email["processing_status"] for email in emails] == ["completed", "completed"]
    texts = await database.fetch("SELECT text FROM messages ORDER BY email_id")
    assert [row["text"] for row in texts] == ["number 0", "number 1"]


async def test_an_agents_web_comment_becomes_an_ignored_webhook(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    comment_id = zendesk.add_comment(
        77, channel="web", author=("Agent", "agent@acme.example"), body="internal"
    )
    body = zendesk.announcement(77, comment_id)

    await client.send(body)

    async def ignored() -> bytes | None:
        found: bytes | None = await database.fetchval("SELECT raw_body FROM ignored_webhooks")
        return found

    assert json.loads(await eventually(ignored)) == body
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0


async def test_an_email_that_got_a_file_since_the_look_up_is_not_ignored(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Its file would be downloaded by nobody."""
    for key in ("with", "without"):
        await database.execute(
            "INSERT INTO incoming_emails (zendesk_ticket_id, idempotency_key, raw_body, raw_headers)"
            " VALUES ('1', $1, convert_to($1, 'UTF8'), '[]')",
            key,
        )
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url) VALUES (1, 0, 'https://a')"
    )

    await res.run(lambda conn: messages.ignore(conn, [1, 2]))

    assert await database.fetchval("SELECT array_agg(id) FROM incoming_emails") == [1]
    assert await database.fetchval("SELECT array_agg(raw_body) FROM ignored_webhooks") == [b"without"]


async def test_a_dead_address_gets_a_new_one_from_the_list(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    dead = zendesk.add_file("a.pdf", PDF)
    comment_id = zendesk.add_email(77, attachments=[dead])
    payload = zendesk.payload(ticket_id=77, comment_id=str(comment_id), attachments=[dead])
    zendesk.state.expire(dead)

    await client.send(payload)
    (email,) = await ended(database, 1)

    assert (email["processing_status"], email["retry_count"]) == ("completed", 0)
    files = await database.fetch("SELECT file_name, status FROM attachments")
    assert [tuple(row) for row in files] == [("a.pdf", "stored")]


@pytest.mark.parametrize(("comment", "status"), [({"comment_id": "999"}, "failed"), ({}, "completed")])
async def test_a_named_comment_that_zendesk_does_not_show_fails_whatever_files_are_listed(
    comment: dict[str, str], status: str, client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    """Its text, and images that no list names, are unknown. A webhook without a comment may be about none."""
    zendesk.add_email(77, text="another", created_at=datetime.now(UTC) - timedelta(days=1))
    payload = zendesk.payload(ticket_id=77, attachments=[zendesk.add_file("a.pdf", PDF)], **comment)

    receipt = await client.send(payload)
    email = await client.until(receipt["email_id"], "completed", "failed")

    assert email["processing_status"] == status
    assert email["error_code"] == ("comment_not_found" if comment else None)
    assert [file["status"] for file in email["attachments"]] == ["stored"]


async def test_a_link_to_a_file_of_another_account_is_no_file_of_the_email(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    """As in a forwarded e-mail of somebody else's Zendesk: nobody here can download it."""
    own = zendesk.add_file("logo.png", PNG)
    html = f'<img src="https://other.zendesk.com/attachments/token/x/?name=x.png"><img src="{own}">'
    comment_id = zendesk.add_email(77, html=html)

    receipt = await client.send(zendesk.announcement(77, comment_id))
    email = await client.until(receipt["email_id"], "completed", "failed")

    assert email["processing_status"] == "completed"
    assert [(file["file_name"], file["status"]) for file in email["attachments"]] == [("logo.png", "stored")]


async def test_a_link_in_the_text_of_a_webhook_to_another_account_is_no_file_of_the_email(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Zendesk tells that it stands only in what the sender wrote, also if the webhook comes once more."""
    own = zendesk.add_file("a.pdf", PDF)
    link = "https://other.zendesk.com/attachments/token/x/?name=x.png"
    html = f'<p>As <a href="{link}">they</a> wrote</p>'
    comment_id = zendesk.add_email(77, attachments=[own], html=html)
    body = {"ticket_id": 77, "comment_id": comment_id, "comment": f"As they wrote: {link}"}

    for number in range(2):
        await client.send({**body, "number": number})
        (email,) = await ended(database, 1)

        assert (email["processing_status"], email["processing_error"]) == ("completed", None)
        files = await database.fetch("SELECT source_url, status FROM attachments")
        assert [tuple(file) for file in files] == [(own, "stored")]


async def test_long_comments_of_others_fail_no_email(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """A sender can write into each of his tickets: a page of a hundred such comments is too large."""
    text, at = '"' * 64_000, datetime.now(UTC) - timedelta(hours=3)
    about: dict[str, Any] = {"channel": "web", "role": "end-user", "author": ("Mia", "mia@customer.example")}
    for number in range(70):
        made_at = at + timedelta(seconds=number)
        zendesk.add_comment(77, body=text, html_body=text, created_at=made_at, **about)
    old = zendesk.add_email(77, text="old", created_at=at - timedelta(hours=1))

    for comment_id in (zendesk.add_email(77, text="new"), old):
        receipt = await client.send(zendesk.announcement(77, comment_id))
        await client.until(receipt["email_id"], "completed")

    texts = await database.fetch("SELECT text FROM messages ORDER BY email_id")
    assert {row["text"] for row in texts} >= {"new", "old"}


async def test_a_ticket_that_was_deleted_has_no_more_than_its_webhook_lists(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    url = zendesk.add_file("a.pdf", PDF)
    payload = zendesk.payload(ticket_id=404, attachments=[url], comment_id="999")

    receipt = await client.send(payload)
    email = await client.until(receipt["email_id"], "completed", "failed")

    assert (email["processing_status"], email["error_code"]) == ("completed", None)


@pytest.mark.parametrize("ticket", ["{{ticket.id}}", "TICKET-1", "\u0663\u0665"])
async def test_a_ticket_that_is_no_number_fails_whatever_files_are_listed(
    ticket: str, client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    """Zendesk cannot be asked what else the e-mail had."""
    payload = zendesk.payload(ticket_id=ticket, attachments=[zendesk.add_file("a.pdf", PDF)])

    receipt = await client.send(payload)
    email = await client.until(receipt["email_id"], "completed", "failed")

    assert (email["processing_status"], email["error_code"]) == ("failed", "no_ticket")
    assert [file["status"] for file in email["attachments"]] == ["stored"]
    assert zendesk.state.calls["comments"] == 0


@pytest.mark.parametrize("code", ["redacted", "malware_found"])
async def test_what_zendesk_does_not_give_out_fails_with_the_reason(
    code: str, client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    url = zendesk.add_file("a.pdf", PDF)
    comment_id = zendesk.add_email(77, attachments=[url])
    if code == "redacted":
        zendesk.state.redact(url)
    else:
        zendesk.state.scan(url, "malware_found")

    await client.send(zendesk.announcement(77, comment_id))
    (email,) = await ended(database, 1)

    assert (email["processing_status"], email["error_code"]) == ("failed", code)
    assert zendesk.file(url).downloads == 0


async def test_a_redaction_takes_no_stored_copy_away(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    url = zendesk.add_file("a.pdf", PDF)
    comment_id = zendesk.add_email(77, attachments=[url], text="secret")
    email_id = (await client.send(zendesk.announcement(77, comment_id)))["email_id"]
    await ended(database, 1)
    zendesk.state.redact(url)

    await client.post(f"/api/v1/emails/{email_id}/retry")
    (email,) = await ended(database, 1)

    assert email["processing_status"] == "completed"
    assert await database.fetchval("SELECT status FROM attachments") == "stored"


@pytest.mark.parametrize(
    ("kind", "end"), [("public", ("completed", None)), ("private", ("failed", "sign_in_page"))]
)
async def test_without_credentials_a_file_that_waits_for_its_scan_is_fetched_in_the_end(
    kind: str,
    end: tuple[str, str | None],
    settings: Settings,
    res: Resources,
    zendesk: Zendesk,
    database: asyncpg.Connection,
) -> None:
    """They were there for the look-up, and are gone since."""
    url = zendesk.add_file("a.pdf", PDF, public=kind == "public", malware="not_scanned")
    comment_id = zendesk.add_email(77, attachments=[url])
    email_id = await add(database, zendesk_ticket_id="77", comment_id=str(comment_id))
    await process(res, email_id, 1)
    query = "SELECT processing_status, error_code FROM incoming_emails"
    about = {"zendesk_oauth_client_id": None, "zendesk_oauth_client_secret": None}
    async with open_resources(settings.model_copy(update=about)) as without:
        await process(without, email_id, 2)
        meanwhile = await database.fetchrow(query)
        await database.execute("UPDATE messages SET fetched_at = now() - interval '3 hours'")
        await database.execute("UPDATE incoming_emails SET received_at = now() - interval '3 hours'")
        await process(without, email_id, 3)

    assert tuple(meanwhile or ()) == ("queued", "not_scanned")
    assert tuple(await database.fetchrow(query) or ()) == end


async def test_a_file_that_is_not_scanned_yet_waits(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    url = zendesk.add_file("a.pdf", PDF, malware="not_scanned")
    comment_id = zendesk.add_email(77, attachments=[url])

    await client.send(zendesk.announcement(77, comment_id))

    async def waits() -> asyncpg.Record | None:
        return await database.fetchrow(
            "SELECT due_at - now() AS pause, retry_count FROM incoming_emails"
            " WHERE processing_status = 'queued' AND error_code = 'not_scanned'"
        )

    waiting = await eventually(waits)
    assert timedelta(0) < waiting["pause"] <= timedelta(seconds=61)
    assert waiting["retry_count"] == 0

    zendesk.state.scan(url, "malware_not_found")
    await database.execute("UPDATE incoming_emails SET due_at = now()")
    (email,) = await ended(database, 1)
    assert email["processing_status"] == "completed"


async def test_a_rate_limit_delays_and_never_fails(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.api_faults.append(Fault(status=429, headers={"Retry-After": "1"}))
    comment_id = zendesk.add_email(77)

    await client.send(zendesk.announcement(77, comment_id))
    (email,) = await ended(database, 1)

    assert (email["processing_status"], email["retry_count"]) == ("completed", 0)


async def test_old_e_mails_of_a_back_fill_leave_calls_to_new_ones(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Half of the budget is left to e-mails that were announced, or found soon after they came."""
    now = datetime.now(UTC)
    await database.execute(
        "INSERT INTO api_budgets (account, calls_per_minute, used, window_ends_at)"
        " VALUES ($1, 100, 20, now() + interval '1 minute')",
        zendesk.url.removeprefix("http://"),
    )
    ages = {"old": timedelta(days=30), "new": timedelta(minutes=5)}
    for ticket, age in enumerate(ages.values(), 1):
        comment_id = zendesk.add_email(ticket, created_at=now - age)
        await add(
            database,
            zendesk_ticket_id=str(ticket),
            comment_id=str(comment_id),
            identified=True,
            origin="backfill",
            sent_at=now - age,
        )

    for email_id in (1, 2):
        await process(res, email_id, 1)
    rows = await database.fetch(
        "SELECT processing_status, error_code, retry_count FROM incoming_emails ORDER BY id"
    )

    assert [tuple(row) for row in rows] == [("queued", "rate_limited", 0), ("completed", None, 0)]
    assert zendesk.state.lookups == {"2": 1}


async def test_readings_of_long_tickets_go_on_where_the_rate_limit_cut_them_off(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Otherwise the first pages of many tickets would use up the calls of each minute."""
    at = datetime.now(UTC) - timedelta(days=10)
    for ticket in range(1, 5):
        comment_id = zendesk.add_email(ticket, created_at=at)
        for number in range(350):
            later = at + timedelta(hours=1, seconds=number)
            zendesk.add_comment(ticket, channel="web", created_at=later)
        about = {"zendesk_ticket_id": str(ticket), "comment_id": str(comment_id)}
        await add(database, identified=True, origin="backfill", sent_at=at, **about)
    await res.zendesk._budget.note_limit(25)  # ten are ours, and five for old e-mails

    minutes = 0
    while due := await database.fetch(
        "SELECT id, attempt_number + 1 FROM incoming_emails WHERE processing_status NOT IN ('completed', 'failed')"
    ):
        minutes += 1
        assert minutes < 15
        await database.execute("UPDATE api_budgets SET window_ends_at = now() - interval '1 second'")
        await asyncio.gather(*(process(res, *job) for job in due))

    statuses = await database.fetch("SELECT processing_status FROM incoming_emails")
    assert {row["processing_status"] for row in statuses} == {"completed"}
    assert zendesk.state.calls["comments"] == 4 * 4
    assert res.next_pages == {}


async def test_the_original_is_kept_only_if_it_is_this_emails(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.gives_originals = True
    eml = "Message-ID: <{}@customer.example>\r\nDate: Mon, 1 Jun 2026 10:00:00 +0200\r\n\r\nHello"
    for ticket, name in ((77, "mine"), (78, "other")):
        comment_id = zendesk.add_email(
            ticket,
            message_id=f"<{ticket}@customer.example>",
            original=eml.format(ticket if name == "mine" else 1).encode(),
        )
        await client.send(zendesk.announcement(ticket, comment_id))
    await ended(database, 2)

    rows = await database.fetch("SELECT original, original_size, sent_at FROM messages ORDER BY email_id")
    kept = {row["original"]: row for row in rows}
    assert set(kept) == {"stored", "not_available"}
    assert kept["stored"]["original_size"] == len(eml.format(77))
    assert kept["stored"]["sent_at"] == datetime(2026, 6, 1, 8, tzinfo=UTC)


async def test_any_interleaving_of_announcements_and_attempts_gives_each_comment_once(
    zendesk: Zendesk, database: asyncpg.Connection, settings: Settings
) -> None:
    """Two workers, three comments with files, and webhooks of all kinds, some of them twice, at the same time."""
    urls = [
        [zendesk.add_file(f"{number}{place}.pdf", PDF + bytes([number, place])) for place in range(2)]
        for number in range(3)
    ]
    comments = [
        zendesk.add_email(77, attachments=each, text=f"number {number}") for number, each in enumerate(urls)
    ]
    bodies: list[dict[str, Any]] = []
    for comment_id, each in zip(comments, urls, strict=True):
        events = [zendesk.event(url, ticket_id=77) for url in each]
        for event in events:
            event["event"]["comment"]["id"] = str(comment_id)
        bodies += [
            *events,
            zendesk.announcement(77, comment_id),
            zendesk.payload(ticket_id=77, attachments=each),
        ]
    async with serving(settings, zendesk) as client, working(settings), working(settings):
        await asyncio.gather(*(client.send(body) for body in bodies[::2]))
        await asyncio.gather(*(client.send(body) for body in bodies[1::2]))
        emails = await ended(database, 3)

    assert {email["comment_id"] for email in emails} == set(map(str, comments))
    assert {email["processing_status"] for email in emails} == {"completed"}
    requests = await database.fetchval(
        "SELECT (SELECT count(*) FROM incoming_emails WHERE raw_body IS NOT NULL) + (SELECT count(*) FROM announcements)"
    )
    assert requests == len(bodies)
    files = await database.fetch(
        "SELECT email_id, array_agg(file_name ORDER BY file_name) FROM attachments GROUP BY 1"
    )
    assert sorted(row[1] for row in files) == [
        ["00.pdf", "01.pdf"],
        ["10.pdf", "11.pdf"],
        ["20.pdf", "21.pdf"],
    ]


async def test_a_webhook_about_an_old_email_costs_one_more_call(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Such as that of a trigger which runs at each change of a ticket."""
    slow = {"early_seconds": 900, "retry_min_seconds": 15, "retry_max_seconds": 300}
    async with open_resources(settings.model_copy(update=slow)) as res:
        old = zendesk.add_email(77, created_at=datetime.now(UTC) - timedelta(minutes=10))
        await process(res, await add(database, zendesk_ticket_id="77", comment_id=str(old)), 1)
        calls = zendesk.state.api_calls
        email_id = await add(database, zendesk_ticket_id="77", comment_id="")

        await process(res, email_id, 1)
        due_in = await database.fetchval(
            "SELECT due_at - received_at FROM incoming_emails WHERE id = $1", email_id
        )
        await database.execute(
            "UPDATE incoming_emails SET received_at = received_at - (due_at - received_at) WHERE id = $1",
            email_id,
        )
        await process(res, email_id, 2)

    assert timedelta(seconds=30) < due_in < timedelta(seconds=34)
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 1
    assert zendesk.state.api_calls == calls + 2


async def test_an_account_longer_than_any_of_zendesk_delays_no_email(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Nobody signs its header, and no index of tickets holds it."""
    comment_id = zendesk.add_email(77, text="kept")

    await client.send(zendesk.announcement(77, comment_id), headers={ACCOUNT_ID: token_hex(3000)})
    (email,) = await ended(database, 1)

    assert (email["processing_status"], email["account_id"], email["identified"]) == ("completed", None, True)
    assert await database.fetchval("SELECT text FROM messages") == "kept"
