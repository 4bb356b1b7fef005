"""The audit of a drill finds each single change, and lists it under its heading."""

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from service.local.drill.audit import audit
from service.local.drill.ledger import Injection, Ledger, Webhook
from service.local.drill.verdict import AuditResult, verdict

NOON = datetime(2025, 11, 3, 12, 0, tzinfo=UTC)
HEADINGS = ("lost", "doubled", "wrong_bytes", "broken")
FILES = [b"%PDF one", b"%PDF two", b"%PDF three"]
HASHES = [hashlib.sha256(content).hexdigest() for content in FILES]
KEYS = [f"sha256/{name[:2]}/{name[2:]}" for name in HASHES]


@dataclass
class World:
    """A ledger, and rows and objects that agree with it until a test tampers with them."""

    ledger: Ledger
    objects: Path

    def webhook(self, ticket: str) -> Webhook:
        return self.ledger.webhooks[ticket]

    def object(self, number: int) -> Path:
        return self.objects / KEYS[number]

    def put(self, key: str, content: bytes, age: float = 0) -> None:
        """Write a file with a modification time `age` seconds ago."""
        path = self.objects / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (time.time() - age, time.time() - age))


Tamper = str | Callable[[World], object]  # an SQL statement, or a change of the ledger or the objects


def _webhooks() -> list[Webhook]:
    """Return two completed e-mails, two that failed as expected, one in quarantine, and one not acknowledged."""
    return [
        Webhook("101", "letter", b"body 101", HASHES[:2], None, "ok", 2, {1}),
        Webhook("102", "bare", b"body 102", (), None, "ok", 1, {2}),
        Webhook("103", "gone", b"body 103", HASHES[2:], "not_found", "ok", 1, {3}),
        Webhook("104", "poison.kill", b"body 104", HASHES[2:], "abandoned", "ok", 1, {4}),
        Webhook(
            "105", "garbage", b'{"ticket_id": "105", "subject": "the "big" one"}', (), None, "ok", 1, {1}
        ),
        Webhook("106", "letter", b"body 106", HASHES[2:], None, "unknown", 1),
    ]


# The outcomes of each e-mail's attempts, and the error code of its failure.
_HISTORIES: Mapping[str, tuple[Sequence[str], str | None]] = {
    "101": (("released", "handed_back", "abandoned", "completed"), None),
    "102": (("completed",), None),
    "103": (("released", "failed"), "not_found"),
    "104": (("abandoned", "abandoned"), "abandoned"),
}


async def _record(database: asyncpg.Connection, webhook: Webhook) -> None:
    outcomes, code = _HISTORIES[webhook.ticket_id]
    seconds = [NOON + timedelta(seconds=second) for second in range(2 * len(outcomes) + 1)]
    email_id = await database.fetchval(
        "INSERT INTO incoming_emails (zendesk_ticket_id, raw_body, received_at, started_at, completed_at,"
        " processing_status, error_code, processing_error, attempt_number, retry_count)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9) RETURNING id",
        webhook.ticket_id,
        webhook.body,
        seconds[0],
        *seconds[-2:],
        "failed" if code else "completed",
        code,
        len(outcomes),
        outcomes[:-1].count("released"),
    )
    for index, outcome in enumerate(outcomes):
        await database.execute(
            "INSERT INTO attempts (email_id, number, worker, started_at, finished_at, outcome)"
            " VALUES ($1, $2, 'worker.1', $3, $4, $5)",
            email_id,
            index + 1,
            *seconds[2 * index + 1 : 2 * index + 3],
            outcome,
        )
    for position, sha256 in enumerate(webhook.files):
        stored = (sha256, len(FILES[HASHES.index(sha256)]), KEYS[HASHES.index(sha256)])
        await database.execute(
            "INSERT INTO attachments (email_id, position, source_url, status, sha256, size, object_key)"
            " VALUES ($1, $2, 'http://zendesk/file', $3, $4, $5, $6)",
            email_id,
            position,
            "failed" if code else "stored",
            *((None, None, None) if code else stored),
        )


@pytest.fixture
async def world(database: asyncpg.Connection, tmp_path: Path) -> World:
    webhooks = _webhooks()
    for webhook in webhooks:
        if webhook.ticket_id in _HISTORIES:
            await _record(database, webhook)
    await database.execute(
        "INSERT INTO quarantined_webhooks (idempotency_key, raw_body, raw_headers, error_code, error)"
        " VALUES ('key', $1, '[]', 'not_json', 'It is no JSON.')",
        webhooks[4].body,
    )
    world = World(
        Ledger(
            {webhook.ticket_id: webhook for webhook in webhooks}, [Injection("redis.flush", NOON.timestamp())]
        ),
        tmp_path / "objects",
    )
    for number in (0, 1):
        await asyncio.to_thread(world.put, KEYS[number], FILES[number])
    return world


def _headings(result: AuditResult) -> dict[str, list[str]]:
    return {heading: lines for heading in HEADINGS if (lines := getattr(result, heading))}


async def test_a_correct_world_has_no_problems(world: World, database_url: str) -> None:
    result = await audit(world.ledger, database_url, world.objects)

    assert _headings(result) == {}
    assert result.good
    assert (result.emails["completed"], result.emails["failed"], result.quarantined) == (2, 2, 1)
    assert result.failed == {"not_found": 1, "abandoned": 1}
    assert (result.files, result.objects, result.object_bytes) == (2, 2, 16)
    assert result.outcomes["released"] == 2
    assert result.longest_wait == 8
    assert result.recoveries == {"redis.flush": 2}
    assert result.unacknowledged == 0


async def test_uploads_under_way_and_unacknowledged_rows_are_no_problems(
    world: World, database_url: str
) -> None:
    """An answer may be lost after the commit, and the drill may end during an upload."""
    world.webhook("102").outcome = "unknown"
    world.webhook("102").ids.clear()
    await asyncio.to_thread(world.put, ".spool/young", b"half of a fi", 5)
    result = await audit(world.ledger, database_url, world.objects)

    assert _headings(result) == {}
    assert result.unacknowledged == 1


def _forget(email_id: int) -> str:
    return "".join(
        f"DELETE FROM {table} WHERE {column} = {email_id};"
        for table, column in (
            ("attempts", "email_id"),
            ("attachments", "email_id"),
            ("incoming_emails", "id"),
        )
    )


def _email(change: str, ticket: str = "101") -> str:
    return f"UPDATE incoming_emails SET {change} WHERE zendesk_ticket_id = '{ticket}'"


def _attempt(change: str, number: int, email_id: int = 1) -> str:
    return f"UPDATE attempts SET {change} WHERE email_id = {email_id} AND number = {number}"


def _file(change: str, position: int = 0, email_id: int = 1) -> str:
    return f"UPDATE attachments SET {change} WHERE email_id = {email_id} AND position = {position}"


def _add_row(ticket: str, body: str, status: str = "completed") -> str:
    return (
        "INSERT INTO incoming_emails (zendesk_ticket_id, raw_body, processing_status, started_at, completed_at,"
        f" attempt_number) VALUES ('{ticket}', '{body}', '{status}', now(), now(), 1);"
        " INSERT INTO attempts (email_id, number, worker, started_at, finished_at, outcome)"
        " SELECT max(id), 1, 'worker.1', now(), now(), 'completed' FROM incoming_emails"
    )


def _keep(body: str, key: str) -> str:
    return (
        "INSERT INTO quarantined_webhooks (idempotency_key, raw_body, raw_headers, error_code, error)"
        f" VALUES ('{key}', '{body}', '[]', 'not_json', '')"
    )


# The change; the headings, the most important first; and a text under that heading.
TAMPERINGS: Mapping[str, tuple[Tamper, str, str]] = {
    # webhooks and rows
    "acknowledged, but no row": (
        _forget(2),
        "lost",
        r"ticket 102 \(bare\) was acknowledged and is not there",
    ),
    "a row that was never sent": (
        _add_row("999", "x"),
        "broken",
        "ticket 999 has an e-mail, and none was sent",
    ),
    "a row twice": (_add_row("102", "body 102"), "doubled", "ticket 102 has 2 e-mails"),
    "two ids in the answers to one webhook": (
        lambda world: world.webhook("102").note("ok", 77),
        "doubled broken",
        r"ticket 102 \(bare\) was given the ids \[2, 77\]",
    ),
    "the id of another row in an answer": (
        lambda world: world.webhook("102").ids.symmetric_difference_update({2, 3}),
        "broken",
        r"ticket 102 \(bare\) was given the ids \[3\], it has \[2\]",
    ),
    "a row with another body": (
        _email("raw_body = 'body 1O1'"),
        "wrong_bytes lost broken",
        "ticket 101 has another body than was sent",
    ),
    "an answer that no receiver may give": (
        lambda world: world.ledger.unexpected.append("ticket 106 got 500 without Retry-After"),
        "broken",
        "106 got 500",
    ),
    # quarantine
    "garbage not in quarantine": (
        "DELETE FROM quarantined_webhooks",
        "lost",
        r"ticket 105 \(garbage\) was acknowledged and is not there",
    ),
    "garbage twice in quarantine": (
        _keep('{"ticket_id": "105", "subject": "the "big" one"}', "2"),
        "doubled",
        r"is in quarantine 2 times",
    ),
    "garbage as an e-mail": (
        _add_row("105", "x"),
        "broken",
        "ticket 105 has an e-mail, and none was sent",
    ),
    "a readable one in quarantine": (
        _keep("body 101", "2"),
        "broken",
        "ticket 101 is in quarantine, but can be parsed",
    ),
    "in quarantine, but never sent": (
        _keep("body 999", "2"),
        "broken",
        "body 999' is in quarantine, and was nev",
    ),
    # the state of an e-mail
    "not finished": (
        _email("processing_status = 'processing', lease_until = '2025-11-03 12:00Z', completed_at = NULL"),
        "broken",
        "e-mail 1: it is processing in the end, lease until 2025-11-03 12:00",
    ),
    "failed without a code": (
        _email("error_code = NULL", "103"),
        "broken",
        "e-mail 3: it failed without a reason",
    ),
    "failed without a message": (
        _email("processing_error = NULL", "103"),
        "broken",
        "e-mail 3: it failed without a reason",
    ),
    "completed, and a lease left": (
        _email("lease_until = now()"),
        "broken",
        "it is completed, and has a lease",
    ),
    "completed with a code": (_email("error_code = 'abandoned'"), "broken", "is completed, abandoned"),
    "failed, though it could be completed": (
        _email(
            "processing_status = 'failed', error_code = 'too_large', processing_error = 'It is large.'", "102"
        )
        + ";"
        + _attempt("outcome = 'failed'", 1, 2),
        "broken",
        r"e-mail 2 \(bare\) is failed, too_large \(It is large.\); it had to end with no error",
    ),
    "completed, though its file is gone": (
        _email("processing_status = 'completed', error_code = NULL, processing_error = NULL", "103")
        + ";"
        + _attempt("outcome = 'completed'", 2, 3),
        "broken",
        r"e-mail 3 \(gone\) is completed, no error .*; it had to end with not_found",
    ),
    # times
    "completed before it was started": (
        _email("started_at = completed_at, completed_at = started_at"),
        "broken",
        "received, started, completed at 12:00:00.000000, 12:00:08.000000, 12:00:07",
    ),
    "received after it was started": (
        _email("received_at = completed_at"),
        "broken",
        "received, started, completed at 12:00:08",
    ),
    "never started": (_email("started_at = NULL"), "broken", "received, started, completed at .* never"),
    "two attempts at once": (
        _attempt("finished_at = finished_at + interval '3 seconds'", 1),
        "broken",
        "its attempts ran at 12:00:01.000000, 12:00:05.000000, 12:00:03",
    ),
    "completed at another time than its attempt": (
        _email("completed_at = completed_at + interval '1 second'"),
        "broken",
        "its attempts ran at",
    ),
    # attempts
    "attempts with a gap": (
        "UPDATE attempts SET number = number + 1 WHERE email_id = 1 AND number = 4",
        "broken",
        r"attempt_number is 4, its attempts are numbered \[1, 2, 3, 5\]",
    ),
    "an attempt without a row": (
        "DELETE FROM attempts WHERE email_id = 1 AND number = 2",
        "broken",
        r"attempt_number is 4, its attempts are numbered \[1, 3, 4\]",
    ),
    "a completed e-mail without any attempt": (
        "DELETE FROM attempts WHERE email_id = 2",
        "broken",
        r"e-mail 2: it is completed, its attempts ended as \[\]",
    ),
    "attempt_number off by one": (_email("attempt_number = 5"), "broken", "attempt_number is 5"),
    "an attempt without an outcome": (
        _attempt("outcome = NULL, finished_at = NULL", 2),
        "broken",
        r"another attempt followed its end, its attempts ended as \['released', None, 'abandoned', 'completed'\]",
    ),
    "retry_count one too many": (_email("retry_count = 2"), "broken", "retry_count is 2"),
    "retry_count one too few": (_email("retry_count = 0"), "broken", "retry_count is 0"),
    "an abandoned attempt that cost a retry": (
        _email("retry_count = 1", "104"),
        "broken",
        "retry_count is 1",
    ),
    "completed, though the last attempt failed": (
        _attempt("outcome = 'failed'", 4),
        "broken",
        "it is completed, its attempts ended as .*'failed'",
    ),
    "failed, though the last attempt gave it back": (
        _attempt("outcome = 'released'", 2, 3),
        "broken",
        "it is failed, its attempts ended as .*'released'",
    ),
    "completed twice": (
        _attempt("outcome = 'completed'", 2),
        "broken",
        "another attempt followed its end, its attempts ended as .*'completed', 'abandoned', 'completed'",
    ),
    # files and objects
    "an attachment's row missing": (
        "DELETE FROM attachments WHERE email_id = 1 AND position = 1",
        "lost broken",
        r"e-mail 1 \(letter\) has 1 of 2 files",
    ),
    "an attachment too many": (
        "INSERT INTO attachments SELECT 2, position, source_url FROM attachments WHERE email_id = 1 LIMIT 1",
        "lost",
        r"e-mail 2 \(bare\) has 1 of 0 files",
    ),
    "an attachment never fetched": (
        _file("status = 'pending', sha256 = NULL, size = NULL, object_key = NULL"),
        "lost broken",
        "has no object for file 0: it is pending",
    ),
    "an object missing": (
        lambda world: world.object(0).unlink(),
        "lost",
        "has no object for file 0: sha256/",
    ),
    "an object cut off": (
        lambda world: world.put(KEYS[0], FILES[0][:-1]),
        "wrong_bytes lost",
        "sha256/.* does not match its content",
    ),
    "an object with other bytes under a key that looks right": (
        lambda world: world.put(KEYS[0], b"%PDF 0ne"),
        "wrong_bytes",
        "sha256/.* does not match its content",
    ),
    "the file of another e-mail": (
        _file(f"sha256 = '{HASHES[1]}', object_key = '{KEYS[1]}'"),
        "wrong_bytes broken",
        r"e-mail 1 \(letter\) has another file 0 than was served",
    ),
    "two files exchanged": (
        _file("position = 2") + ";" + _file("position = 0", 1) + ";" + _file("position = 1", 2),
        "wrong_bytes",
        "has another file 1 than was served",
    ),
    "a key that leads to another object": (
        _file(f"object_key = '{KEYS[1]}'"),
        "lost broken",
        "has no object for file 0",
    ),
    "a message without its record": (
        f"""
        INSERT INTO messages (email_id, comment_id, direction, "to", cc, text, text_size, has_html, record_sha256,
            record_key, record_size)
        VALUES (2, '1', 'inbound', '[]', '[]', '', 0, false, '{HASHES[2]}', '{KEYS[2]}', 2)
        """,
        "lost broken",
        "message 2 has no object for its record",
    ),
    "an object without an e-mail": (
        lambda world: world.put(KEYS[2], FILES[2]),
        "broken",
        "sha256/.* belongs to no e-mail",
    ),
    "an old temporary file": (
        lambda world: world.put(".spool/old", b"half of a fi", 60),
        "broken",
        ".spool/old was left behind",
    ),
    # the drill itself
    "not all acknowledged, without a fault": (
        lambda world: world.ledger.injections.clear(),
        "broken",
        "1 webhooks were not acknowledged, without any fault",
    ),
}


@pytest.mark.parametrize(("tamper", "headings", "text"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
async def test_each_change_is_found_under_its_heading(
    tamper: Tamper, headings: str, text: str, world: World, database: asyncpg.Connection, database_url: str
) -> None:
    if isinstance(tamper, str):
        await database.execute(tamper)
    else:
        await asyncio.to_thread(tamper, world)
    result = await audit(world.ledger, database_url, world.objects)

    found = _headings(result)
    assert not result.good
    assert sorted(headings.split()) == sorted(found)
    assert any(re.search(text, line) for line in found[headings.partition(" ")[0]]), found


@pytest.mark.parametrize(
    "webhooks", [[], [Webhook("101", "letter", b"body")]], ids=["none sent", "none acknowledged"]
)
async def test_a_drill_without_an_acknowledged_webhook_proves_nothing(
    webhooks: list[Webhook], database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    ledger = Ledger({webhook.ticket_id: webhook for webhook in webhooks}, [Injection("web.kill", 0)])
    result = await audit(ledger, database_url, tmp_path)

    assert _headings(result) == {"broken": ["no webhook was acknowledged, so the drill proves nothing"]}


def test_a_verdict_counts_the_problems_and_lists_the_first_twenty() -> None:
    ledger = Ledger(
        injections=[
            Injection("web.kill", 0),
            Injection("web.kill", 9),
            Injection("web.term", 5, had_effect=False),
        ]
    )
    result = AuditResult(lost=[f"ticket {number} is not there" for number in range(2_000)], broken=["odd"])
    judged = verdict("60 s, seed 7", ledger, result, 1.5, 1000)

    lines = judged.text.plain.splitlines()
    assert not judged.good
    assert "  faults            2 of 1 kinds" in lines
    assert "    web             kill 2 times" in lines
    assert "  had no effect     web.term" in lines
    assert [line[:23] for line in lines if line.startswith(("  lost", "  dup", "  wrong", "  broken"))] == [
        "  lost              2,000"[:23],
        "  duplicated        0  ",
        "  wrong bytes       0  ",
        "  broken otherwise  1  ",
    ]
    assert "      ticket 19 is not there" in lines
    assert "      ticket 20 is not there" not in lines
    assert "      and 1,980 more" in lines
    assert "      odd" in lines
    assert lines[-1] == "  The promise was broken."


def test_a_verdict_fits_the_terminal() -> None:
    injections = [
        Injection(f"{part}.{kind}", 0)
        for part in ("web", "redis")
        for kind in map("fault {}".format, range(9))
    ]
    judged = verdict("60 s", Ledger(injections=injections), AuditResult(), 1.5, 80)

    assert max(map(len, judged.text.plain.splitlines())) <= 80
