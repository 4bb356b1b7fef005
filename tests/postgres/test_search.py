"""Searches: pages of any size, found in steps of any length, have each match once and in order."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from service.alerts.failures import find
from service.capture.word_index import write_words
from service.postgres.engine import connect
from service.postgres.search import Cursor, count, search
from service.postgres.selection import Selection
from service.postgres.words import terms_of
from service.queries.emails import EmailFilter, list_emails
from service.queries.failures import MAX_GROUPS, list_failures
from service.queries.views import EmailView
from service.resources import Resources
from tests.support.examples import examples
from tests.support.rows import add_failed
from tests.support.words import is_found

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STATUSES = ("received", "queued", "processing", "completed", "failed")
SENDERS = (None, "Ada@Customer.example", "bob@other.example", "%_\\@odd.example")
NAMES = (None, "Ada Byron", "böb")
SUBJECTS = (None, "Invoice 50%", "invoice_7", "Über alles", "a \\ b")
FILES = ((), ("Scan_1.PDF",), ("photo.jpg", None), ("invoice.pdf", "terms 50%.txt"))
SYNC_STATUSES = ("not_applicable", "pending", "synced", "failed", "failed")
CODES = ((None, None), ("http_500", "a.example"), ("http_500", "b.example"), ("too_large", None))
TEXTS = (
    "invoice",
    "INVOICE_",
    "50%",
    "über",
    "\\",
    "odd.ex",
    "pdf",
    "nothing of it",
    "bob",
    "BÖB",
    "scan_1",
    "pdf Ada",
)


async def fill(
    res: Resources, database: asyncpg.Connection, rng: random.Random, size: int
) -> list[dict[str, Any]]:
    """Record e-mails, many at the same time and not in the order of their ids, a few without words; return them."""
    emails = []
    for _ in range(size):
        status = rng.choice(STATUSES)
        sync = rng.choice(SYNC_STATUSES)
        code, host = rng.choice(CODES) if status in {"failed", "queued"} else (None, None)
        email = {
            "zendesk_ticket_id": rng.choice("123"),
            "from_email": rng.choice(SENDERS),
            "from_name": rng.choice(NAMES),
            "subject": rng.choice(SUBJECTS),
            "received_at": NOON + timedelta(hours=rng.randrange(6)),
            "processing_status": status,
            "error_code": code,
            "error_host": host,
            "origin": rng.choice(("webhook", "webhook", "lookup", "backfill")),
            "zendesk_state": rng.choice((None, None, "deleted", "redacted")),
            "sync_status": sync,
            "attempt_number": 1,
            "dismissed_attempt": rng.choice((None, None, 0, 1)),
            "sync_attempt_number": 1,
            "dismissed_sync_attempt": rng.choice((None, 0, 1)),
            "sync_error_code": rng.choice(("receiver_busy", "document_refused"))
            if sync == "failed"
            else None,
        }
        names, places = ", ".join(email), ", ".join(f"${place + 1}" for place in range(len(email)))
        files = rng.choice(FILES)
        insert = f"INSERT INTO incoming_emails ({names}) VALUES ({places}) RETURNING id"
        email_id = await database.fetchval(insert, *email.values())
        for position, name in enumerate(files):
            row = (
                "INSERT INTO attachments (email_id, position, source_url, file_name) VALUES ($1, $2, '', $3)"
            )
            await database.execute(row, email_id, position, name)
        is_written = rng.random() < 0.8
        emails.append({**email, "id": email_id, "files": files, "is_written": is_written})
    written = [email["id"] for email in emails if email["is_written"]]
    await res.run(lambda conn: write_words(conn, written))
    return emails


def draw(rng: random.Random) -> Selection:
    """Generate a filter of possible values, mostly with few fields."""
    choices: dict[str, Any] = {
        "status": rng.choice(STATUSES),
        "sync_status": rng.choice(SYNC_STATUSES),
        "sync_error_code": rng.choice(("receiver_busy", "document_refused", "other")),
        "origin": rng.choice(("webhook", "lookup", "backfill")),
        "zendesk_state": rng.choice(("deleted", "redacted", "any")),
        "dismissed": rng.choice((True, False)),
        "ticket": rng.choice("1234"),
        "sender": rng.choice(("ada@customer.EXAMPLE", "%_\\@odd.example", "nobody@x.example")),
        "error_code": rng.choice(("http_500", "too_large", "none", "other")),
        "host": rng.choice(("a.example", "none", "c.example")),
        "q": rng.choice(TEXTS),
        "received_after": NOON + timedelta(hours=rng.randrange(6)),
        "received_before": NOON + timedelta(hours=rng.randrange(7)),
    }
    names = set(rng.sample(sorted(choices), rng.choice((0, 1, 1, 2, 3))))
    # Some have an index of their own: a group of failures, and failed syncs.
    own: tuple[dict[str, str], ...] = (
        {"status": "failed", "error_code": choices["error_code"], "host": choices["host"]},
        {"sync_status": "failed", "sync_error_code": choices["sync_error_code"]},
        {"sync_status": "failed", "error_code": choices["error_code"]},
        *({} for _ in range(5)),
    )
    return Selection(**{name: choices[name] for name in names} | rng.choice(own))


def has_words(query: str, texts: list[str], *, is_written: bool) -> bool:
    """Match a query: by words, or as it is written where the words are not written yet."""
    if not is_written:
        parts = query.lower().split()
        return bool(terms_of(query)) and all(any(part in text.lower() for text in texts) for part in parts)
    return is_found(query, *texts)


def is_dismissed(email: dict[str, Any]) -> bool:
    """Say whether what failed is dismissed: of the newest attempts of job and sync."""
    job, sync = email["processing_status"], email["sync_status"]
    if job not in {"completed", "failed"} or "failed" not in (job, sync):
        return False
    is_of_sync = sync != "failed" or email["dismissed_sync_attempt"] == 1
    return bool(email["dismissed_attempt"] == 1 and is_of_sync)


def is_meant(wanted: Selection, email: dict[str, Any]) -> bool:
    """Say whether an e-mail matches, by a second implementation of the filter."""
    texts = (
        email["zendesk_ticket_id"],
        email["subject"],
        email["from_email"],
        email["from_name"],
        *email["files"],
    )
    if email["is_written"]:
        texts += (email["error_code"], email["sync_error_code"])
    failed = email["processing_status"] == "failed"

    def is_about(value: str | None, name: str) -> bool:
        return email[name] is None and failed if value == "none" else email[name] == value

    return all(
        (
            wanted.status in (None, email["processing_status"]),
            wanted.sync_status in (None, email["sync_status"]),
            wanted.sync_error_code in (None, email["sync_error_code"]),
            wanted.origin in (None, email["origin"]),
            wanted.zendesk_state in (None, email["zendesk_state"])
            or (wanted.zendesk_state == "any" and email["zendesk_state"] is not None),
            wanted.dismissed in (None, is_dismissed(email)),
            wanted.ticket in (None, email["zendesk_ticket_id"]),
            wanted.sender is None or (email["from_email"] or "").lower() == wanted.sender.lower(),
            wanted.error_code is None or is_about(wanted.error_code, "error_code"),
            wanted.host is None or (is_about(wanted.host, "error_host")),
            "none" not in (wanted.error_code, wanted.host) or failed,
            wanted.q is None or has_words(wanted.q, [*filter(None, texts)], is_written=email["is_written"]),
            wanted.received_after is None or email["received_at"] >= wanted.received_after,
            wanted.received_before is None or email["received_at"] < wanted.received_before,
        )
    )


@pytest.mark.parametrize("seed", range(examples(1)))
async def test_pages_have_each_match_once_and_newest_first(
    seed: int, res: Resources, database: asyncpg.Connection
) -> None:
    rng = random.Random(seed)
    emails = await fill(res, database, rng, 60)

    for _ in range(60):
        wanted = draw(rng)
        listed, cursor, totals = list[EmailView](), None, list[int | None]()
        while True:
            given = EmailFilter(**wanted.model_dump(), limit=rng.choice((1, 7, 200)), cursor=cursor)
            page = await list_emails(res.engine, given)
            listed += page.emails
            totals.append(page.total)
            if (cursor := page.next_cursor) is None:
                break
        expected = {email["id"] for email in emails if is_meant(wanted, email)}
        assert {email.id for email in listed} == expected, wanted
        assert len(listed) == len(expected), wanted
        assert totals == [len(expected)] + [None] * (len(totals) - 1), wanted
        by_id = [email.id for email in listed]
        by_time = [(email.received_at, email.id) for email in listed]
        assert sorted(by_id, reverse=True) == by_id or sorted(by_time, reverse=True) == by_time, wanted


@pytest.mark.parametrize("seed", range(examples(1)))
async def test_short_steps_find_the_same_matches(
    seed: int, res: Resources, database: asyncpg.Connection
) -> None:
    rng = random.Random(seed)
    emails = await fill(res, database, rng, 40)

    for _ in range(40):
        wanted, found, after, steps = draw(rng), list[int](), None, 0
        async with connect(res.engine) as conn:
            while True:
                way = await search(conn, wanted, after, examined=4)
                found += [row.id for row in await conn.execute(way.found(3))]
                steps += 1
                if (stop := (await conn.execute(way.stop(3))).one_or_none()) is None:
                    break
                after = Cursor(*stop)
        assert sorted(found) == [email["id"] for email in emails if is_meant(wanted, email)], wanted
        assert steps <= 1 + len(emails) // 3


async def test_a_count_is_capped_at_the_end_of_a_step(res: Resources, database: asyncpg.Connection) -> None:
    for ticket in ("1", "2", "1", "1"):
        await database.execute("INSERT INTO incoming_emails (zendesk_ticket_id) VALUES ($1)", ticket)
    async with connect(res.engine) as conn:
        counts = [await count(conn, Selection(ticket="1"), examined) for examined in (2, 3, 4)]

    assert counts == [(2, True), (3, True), (3, False)]


async def test_failures_are_grouped_by_code_and_host(res: Resources, database: asyncpg.Connection) -> None:
    rng = random.Random(1)
    emails = await fill(res, database, rng, 80)
    failed = [each for each in emails if each["processing_status"] == "failed" and not is_dismissed(each)]

    page = await list_failures(res.engine)

    expected: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for email in sorted(failed, key=lambda email: (email["received_at"], email["id"])):
        key = email["error_code"] or "none", email["error_host"] or "none"
        expected.setdefault(key, []).append(email)
    assert len(expected) == 4
    assert {
        (group.error_code, group.host): (group.count, group.first_seen, group.last_seen, group.example_id)
        for group in page.failures
    } == {
        key: (len(some), some[0]["received_at"], some[-1]["received_at"], some[-1]["id"])
        for key, some in expected.items()
    }
    assert [group.last_seen for group in page.failures] == sorted(
        (group.last_seen for group in page.failures), reverse=True
    )
    for group in page.failures:
        wanted = EmailFilter(status="failed", error_code=group.error_code, host=group.host, dismissed=False)
        assert (await list_emails(res.engine, wanted)).total == group.count


async def test_made_up_hosts_of_one_error_hide_no_other_error(
    res: Resources, database: asyncpg.Connection
) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, error_code, error_host, completed_at)"
        " SELECT '1', 'failed', 'address_refused', 'h' || n || '.example', now() FROM generate_series(1, 1200) AS n"
    )
    await add_failed(database, "1 hour", "too_large", None)

    page = await list_failures(res.engine)
    async with connect(res.engine) as conn:
        alerts = {each.key for each in await find(conn, {})}

    assert (len(page.failures), page.capped) == (MAX_GROUPS, True)
    assert ("too_large", "none") in {(group.error_code, group.host) for group in page.failures}
    assert {"too_large@", "address_refused@*"} <= alerts


async def test_a_cursor_is_the_same_after_json(res: Resources) -> None:
    wanted = Selection(received_after=NOON, q="50%")

    assert Selection.model_validate(json.loads(json.dumps(wanted.model_dump(mode="json")))) == wanted
