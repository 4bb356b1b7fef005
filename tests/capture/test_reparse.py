"""A retry reparses the body: files that an older parser overlooked are captured, and stored files stay."""

import json
from typing import Any

import asyncpg
import pytest

from service.capture.attempt import process
from service.config.settings import Settings
from service.jobs import reparsing
from service.jobs.reparsing import RecordChanges
from service.local.zendesk.account import describe
from service.local.zendesk.stand_in import Zendesk
from service.operate import bulk_retry, reparse
from service.operate.retry import retry
from service.postgres.engine import connect
from service.postgres.selection import Selection
from service.resources import Resources
from tests.conftest import Client
from tests.support.commands import command
from tests.support.files import PDF
from tests.support.webhooks import IGNORED

NAMES = ("a.pdf", "b.pdf", "c.pdf")


async def attempt(res: Resources, database: asyncpg.Connection, email_id: int) -> None:
    """Run the next attempt in this process."""
    number = await database.fetchval("SELECT attempt_number + 1 FROM incoming_emails WHERE id = $1", email_id)
    await process(res, email_id, number)


async def captured(client: Client, res: Resources, database: asyncpg.Connection, zendesk: Zendesk) -> int:
    """Send an e-mail with three files and capture it; return its id."""
    urls = [zendesk.add_file(name, PDF + name.encode()) for name in NAMES]
    email_id: int = (await client.send(zendesk.payload(attachments=urls, subject="Invoice")))["email_id"]
    await attempt(res, database, email_id)
    return email_id


async def forget(database: asyncpg.Connection, email_id: int, *positions: int, **columns: object) -> None:
    """Change a record to that of an older parser, without some files and without a fingerprint."""
    await database.execute(
        "DELETE FROM attachments WHERE email_id = $1 AND position = ANY($2)", email_id, positions
    )
    changed = {"attachment_urls": "[]", "reading_hash": None, **columns}
    sets = ", ".join(f"{name} = ${number}" for number, name in enumerate(changed, 2))
    await database.execute(f"UPDATE incoming_emails SET {sets} WHERE id = $1", email_id, *changed.values())


async def files(client: Client, email_id: int) -> list[tuple[int, str, str]]:
    email = await client.email(email_id)
    return [(file["position"], file["file_name"], file["status"]) for file in email["attachments"]]


async def flags(database: asyncpg.Connection) -> list[bool]:
    return [row["reread"] for row in await database.fetch("SELECT reread FROM incoming_emails ORDER BY id")]


async def test_a_file_overlooked_by_an_older_parser_is_captured_after_a_retry(
    client: Client, res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    email_id = await captured(client, res, database, zendesk)
    await forget(database, email_id, 0, 2, subject="Wrong")
    stored = await database.fetchrow("SELECT * FROM attachments WHERE position = 1")

    await retry(res, email_id, "tests")
    marked = await flags(database)
    await attempt(res, database, email_id)

    email = await client.email(email_id)
    assert marked == [True]
    assert await flags(database) == [False]
    assert (email["processing_status"], email["subject"]) == ("completed", "Invoice")
    assert await files(client, email_id) == [
        (1, "b.pdf", "stored"),
        (2, "a.pdf", "stored"),
        (3, "c.pdf", "stored"),
    ]
    assert await database.fetchrow("SELECT * FROM attachments WHERE position = 1") == stored
    assert len(email["attachment_urls"]) == 3


async def test_addresses_that_were_read_as_one_file_become_several_files(
    client: Client, res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    """The address that no server knows fails the e-mail no longer."""
    email_id = await captured(client, res, database, zendesk)
    urls = [row["source_url"] for row in await database.fetch("SELECT * FROM attachments ORDER BY position")]
    await forget(database, email_id, 1, 2, processing_status="failed")
    await database.execute(
        "UPDATE attachments SET source_url = $1, status = 'failed', sha256 = NULL, object_key = NULL,"
        " error_code = 'bad_url', error = 'No such address.'",
        ";".join(urls),
    )

    await retry(res, email_id, "tests")
    await attempt(res, database, email_id)

    assert (await client.email(email_id))["processing_status"] == "completed"
    assert await files(client, email_id) == [(n, name, "stored") for n, name in enumerate(NAMES)]


async def test_a_recorded_item_that_is_no_file_is_withdrawn(
    client: Client, res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    email_id = await captured(client, res, database, zendesk)
    await forget(database, email_id)
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url, status) VALUES ($1, 7, '', 'failed')",
        email_id,
    )

    await retry(res, email_id, "tests")
    await attempt(res, database, email_id)

    assert (await client.email(email_id))["processing_status"] == "completed"
    assert await files(client, email_id) == [(n, name, "stored") for n, name in enumerate(NAMES)]


async def test_a_retry_without_differences_fetches_nothing(
    client: Client, res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    email_id = await captured(client, res, database, zendesk)
    before = await client.email(email_id)

    await retry(res, email_id, "tests")
    await attempt(res, database, email_id)

    after = await client.email(email_id)
    assert after["attachments"] == before["attachments"]
    assert after["processing_status"] == "completed"
    assert {zendesk.file(file["source_url"]).requests for file in after["attachments"]} == {1}


@pytest.mark.parametrize("body", [None, b"?", IGNORED])
async def test_a_record_without_a_readable_body_stays_unchanged(
    body: bytes | None, client: Client, res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    """The body was not stored, or an older and more lenient parser read it."""
    email_id = await captured(client, res, database, zendesk)
    await database.execute("UPDATE incoming_emails SET raw_body = $1, reading_hash = NULL", body)
    before = await client.email(email_id)

    await retry(res, email_id, "tests")
    await attempt(res, database, email_id)

    after = await client.email(email_id)
    changing = {"started_at", "completed_at", "attempt_number", "due_at", "queued_at", "actions", "attempts"}
    passing = changing | {"queue_seconds", "processing_seconds", "lease_until"}
    assert {k: v for k, v in after.items() if k not in passing and not k.startswith("sync_")} == {
        k: v for k, v in before.items() if k not in passing and not k.startswith("sync_")
    }
    assert await flags(database) == [False]


async def test_an_attempt_that_lost_its_claim_writes_nothing(
    client: Client, res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    email_id = await captured(client, res, database, zendesk)
    await retry(res, email_id, "tests")
    before = await database.fetchrow("SELECT * FROM incoming_emails")
    new = RecordChanges({"subject": "Lost"}, [], [{"position": 0, "source_url": "https://a/"}], [0, 1, 2])

    async with connect(res.engine) as conn:
        read = await reparsing.update_record(conn, (email_id, before["attempt_number"]), new)

    assert read is None
    assert await database.fetchrow("SELECT * FROM incoming_emails") == before
    assert len(await files(client, email_id)) == 3


async def test_stored_files_are_neither_corrected_nor_withdrawn(
    client: Client, res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    """The attempt's knowledge of the files may be older than their storage by another attempt."""
    email_id = await captured(client, res, database, zendesk)
    before = await database.fetch("SELECT * FROM attachments ORDER BY position")
    await database.execute("UPDATE incoming_emails SET processing_status = 'processing'")
    other = {"position": 0, "source_url": "https://a/", "file_name": None}

    async with connect(res.engine) as conn:
        read = await reparsing.update_record(conn, (email_id, 1), RecordChanges({}, [other], [], [1, 2]))

    assert read is not None
    assert await database.fetch("SELECT * FROM attachments ORDER BY position") == before


async def test_a_bulk_retry_reparses_too(
    client: Client, res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    email_id = await captured(client, res, database, zendesk)
    await forget(database, email_id, 1, completed_at=await database.fetchval("SELECT now() - interval '1 s'"))

    await bulk_retry.start(res, Selection(status="completed"), 10, "tests")
    await bulk_retry.step(res)
    await attempt(res, database, email_id)

    assert [name for _, name, _ in await files(client, email_id)] == ["a.pdf", "c.pdf", "b.pdf"]


async def test_looked_up_files_are_no_difference_and_are_looked_up_again_after_a_retry(
    client: Client, res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    first, second = (zendesk.add_file(name, b"%PDF-1.7") for name in ("a.pdf", "b.pdf"))
    comment_id = zendesk.add_comment(1, attachments=[first])
    email_id = (await client.send({"ticket_id": "1", "comment_id": comment_id}))["email_id"]
    await attempt(res, database, email_id)
    zendesk.state.comments["1"][0]["attachments"] = [
        describe(zendesk.state, zendesk.file(u)) for u in (first, second)
    ]

    plan = await planned(res, Selection())
    await retry(res, email_id, "tests")
    await attempt(res, database, email_id)

    assert (plan.matching, plan.differing) == (1, 0)
    email = await client.email(email_id)
    assert [file["file_name"] for file in email["attachments"]] == ["a.pdf", "b.pdf"]
    assert email["processing_status"] == "completed"


# ── holdfast emails reparse


async def planned(res: Resources, wanted: Selection) -> reparse.ReparsePlan:
    plan = reparse.ReparsePlan()
    async for _ in reparse.differences(res, reparse.matching(res, wanted), plan):
        pass
    return plan


async def put(database: asyncpg.Connection, count: int, *, overlooked: bool) -> list[int]:
    """Insert completed e-mails whose body has a file; optionally without its attachment."""
    urls = ["https://files.example/attachments/token/1"]
    body = json.dumps({"ticket_id": "1", "subject": "Invoice", "attachments": urls})
    rows = await database.fetch(
        "INSERT INTO incoming_emails (zendesk_ticket_id, subject, raw_body, raw_headers, attachment_urls,"
        " processing_status, completed_at) SELECT '1', 'Invoice', $2, '[]', $3, 'completed', now()"
        " FROM generate_series(1, $1) RETURNING id",
        count,
        body.encode(),
        "[]" if overlooked else json.dumps(urls),
    )
    ids = [row["id"] for row in rows]
    if not overlooked:
        await database.execute(
            "INSERT INTO attachments (email_id, position, source_url) SELECT id, 0, $2 FROM unnest($1::bigint[]) AS id",
            ids,
            urls[0],
        )
    return ids


async def status(database: asyncpg.Connection, ids: list[int]) -> set[str]:
    rows = await database.fetch("SELECT processing_status FROM incoming_emails WHERE id = ANY($1)", ids)
    return {row["processing_status"] for row in rows}


async def test_the_plan_counts_differences_over_many_pages(
    res: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reparse, "EXAMINED", 7)
    for _ in range(5):
        await put(database, 9, overlooked=True)
        await put(database, 9, overlooked=False)

    plan = await planned(res, Selection())

    assert (plan.matching, plan.differing, plan.added) == (90, 45, 45)
    assert plan.fields == {"attachment_urls": 45}
    assert len(plan.examples) == reparse.EXAMPLES


async def test_a_dry_run_prints_the_changes_and_makes_none(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    ids = await put(database, 3, overlooked=True) + await put(database, 2, overlooked=False)

    done = await command(settings, "emails", "reparse", "--all", "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "3 of 5 change." in done.stderr
    assert "Files to add: 3" in done.stderr
    assert f"e-mail {ids[0]}: 1 file; attachment_urls" in done.stderr
    assert await status(database, ids) == {"completed"}


async def test_a_repeated_command_retries_the_remaining_differences(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    differing, others = await put(database, 3, overlooked=True), await put(database, 2, overlooked=False)

    done = await command(
        settings,
        "emails",
        "reparse",
        "--all",
        "--status",
        "completed",
        "--yes",
        "--json",
        "--per-second",
        "900",
    )
    again_ = await command(settings, "emails", "reparse", "--all", "--yes", "--json")

    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    actions = await database.fetch("SELECT email_id, action FROM operator_actions ORDER BY email_id")
    assert (told["matching"], told["differing"], told["added"], told["queued"]) == (5, 3, 3, 3)
    assert await status(database, differing) == {"queued"}
    assert await status(database, others) == {"completed"}
    assert [(row["email_id"], row["action"]) for row in actions] == [(n, "retry") for n in differing]
    assert await database.fetchval(
        "SELECT bool_and(reread) FROM incoming_emails WHERE id = ANY($1)", differing
    )
    assert json.loads(again_.stdout)["queued"] == 0


async def test_one_email_is_reparsed_by_its_id(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    (differing,), (other,) = await put(database, 1, overlooked=True), await put(database, 1, overlooked=False)

    done = await command(settings, "emails", "reparse", str(differing), str(other), "--yes")

    assert done.returncode == 0, done.stderr
    assert "1 of 2 changes." in done.stderr
    assert await status(database, [differing]) == {"queued"}
    assert await status(database, [other]) == {"completed"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["99", "--yes"], 1, "There is no e-mail 99."),
        (["--yes"], 2, "Give either IDs or --all."),
        (["1", "--all", "--yes"], 2, "Give either IDs or --all."),
        (["1", "--status", "failed", "--yes"], 2, "Filters need --all."),
        (
            ["--all", "--status", "queued", "--yes"],
            1,
            "E-mails that are queued cannot be retried: their jobs run anyway.",
        ),
        (["--all"], 2, "No terminal: add --yes, or --dry-run."),
    ],
)
async def test_a_wrong_call_is_explained_in_one_line(
    words: list[str], code: int, said: str, settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    done = await command(settings, "emails", "reparse", *words)

    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
