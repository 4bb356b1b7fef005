"""The tickets that are safe to delete in Zendesk: none with anything that is not kept, verified and synced."""

import asyncio
import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from service.backfill.legs import OVERLAP
from service.config.settings import Settings
from service.errors import Rejected, Transient
from service.local.zendesk.stand_in import Zendesk
from service.postgres.listed import statement
from service.queries import deletable
from service.queries.deletable import LeftOut
from service.resources import Resources
from tests.support.commands import typed
from tests.support.rows import add
from tests.support.source import account_key, add_source, asking, keep, list_comment, say, use_budget

SEARCHED = datetime.now(UTC).replace(microsecond=0)
MADE = SEARCHED - timedelta(days=9)
SINCE = SEARCHED - timedelta(days=20)
FINDING = "INSERT INTO reconciliation_findings (reconciliation_id, kind, key, detail) VALUES (1, '{}', '{}', '{{}}')"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return asking(settings)


@pytest.fixture
def account(settings: Settings) -> str:
    return account_key(settings)


@pytest.fixture(autouse=True)
async def searched(database: asyncpg.Connection, account: str) -> None:
    """Let the account be searched until now, and all files be verified an hour ago."""
    await add_source(database, account, complete_since=SINCE, watermark=SEARCHED)
    await verify(database)


async def verify(database: asyncpg.Connection, **columns: Any) -> int:
    values = {"actor": "ada", "fix": "nothing", "started_at": SEARCHED - timedelta(hours=1), **columns}
    return await add(database, "reconciliations", **{"kind": "verify", "status": "done", **values})


async def add_ticket(
    database: asyncpg.Connection,
    zendesk: Zendesk,
    ticket: int,
    *,
    emails: int = 1,
    made: datetime = MADE,
    **columns: Any,
) -> list[int]:
    """Let Zendesk have a ticket whose e-mails are kept, each with a file of 1,000 bytes; return their ids."""
    account, ids = account_key(asking_settings(zendesk)), []
    for _ in range(emails):
        comment = str(zendesk.add_email(ticket, created_at=made))
        await list_comment(database, account, str(ticket), comment, made)
        values = {"completed_at": made + timedelta(minutes=1), "received_at": made, "sync_status": "synced"}
        email_id = await keep(database, str(ticket), comment, **{**values, **columns})
        await say(database, email_id, comment, record_key=f"sha256/r{email_id}", fetched_at=made)
        await database.execute(
            "INSERT INTO attachments (email_id, position, source_url, status, size, object_key, stored_at)"
            " VALUES ($1, 0, '', 'stored', 1000, $2, $3)",
            email_id,
            f"sha256/f{email_id}",
            made,
        )
        ids.append(email_id)
    return ids


def asking_settings(zendesk: Zendesk) -> Settings:
    return Settings(zendesk_url=zendesk.url)


async def found(res: Resources, **options: Any) -> tuple[list[str], Mapping[str, int]]:
    left_out = LeftOut()
    tickets = [each.ticket_id async for each in deletable.deletable(res, left_out, **options)]
    return tickets, {str(reason): number for reason, number in left_out.reasons.items()}


async def test_a_ticket_with_all_e_mails_kept_is_deletable(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    await add_ticket(database, zendesk, 7, emails=3)

    [ticket] = [each async for each in deletable.deletable(res, LeftOut())]

    assert (ticket.ticket_id, ticket.emails, ticket.files, ticket.bytes) == ("7", 3, 3, 3000)
    assert (ticket.first_at, ticket.last_at, ticket.verified) == (MADE, MADE, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            "INSERT INTO refused_tickets SELECT account, '7', now(), 'forbidden', '' FROM sources",
            "not_read",
        ),
        ("DELETE FROM messages WHERE email_id = 2", "not_kept"),
        ("UPDATE incoming_emails SET processing_status = 'failed' WHERE id = 2", "not_kept"),
        ("UPDATE incoming_emails SET processing_status = 'queued' WHERE id = 2", "not_kept"),
        ("UPDATE incoming_emails SET error_code = 'not_captured' WHERE id = 2", "not_kept"),
        ("UPDATE incoming_emails SET has_news = true WHERE id = 2", "not_kept"),
        ("UPDATE attachments SET status = 'failed' WHERE email_id = 2", "not_kept"),
        ("UPDATE incoming_emails SET comment_id = 'other' WHERE id = 2", "not_kept"),
        (
            "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status) VALUES ('7', 'received')",
            "not_kept",
        ),
        ("UPDATE incoming_emails SET zendesk_state = 'redacted' WHERE id = 2", "changed"),
        ("UPDATE attachments SET stored_at = now() WHERE email_id = 2", "not_verified"),
        ("UPDATE incoming_emails SET completed_at = now() WHERE id = 2", "not_verified"),
        ("UPDATE reconciliations SET status = 'cancelled'", "not_verified"),
        ("UPDATE reconciliations SET since = now()", "not_verified"),
        ("UPDATE reconciliations SET kind = 'reconcile'", "not_verified"),
        (FINDING.format("object_damaged", "sha256/f2"), "not_verified"),
        (FINDING.format("object_missing", "sha256/r2"), "not_verified"),
    ],
)
async def test_one_bad_e_mail_keeps_its_ticket_and_no_other(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, change: str, reason: str
) -> None:
    await add_ticket(database, zendesk, 7, emails=3)
    await database.execute(change)
    if "UPDATE reconciliations" not in change:
        await add_ticket(database, zendesk, 8)

    tickets, reasons = await found(res)

    assert tickets == ([] if "UPDATE reconciliations" in change else ["8"])
    assert reasons == {reason: 1}


async def test_recent_e_mails_are_verified_by_a_verification_of_these(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    """One e-mail that no verification has read keeps the ticket, also among others that were read."""
    await database.execute("DELETE FROM reconciliations")
    await verify(database, since=MADE - timedelta(days=1))
    await add_ticket(database, zendesk, 7, emails=2)
    first, _ = await add_ticket(database, zendesk, 8, emails=2)
    await database.execute(
        "UPDATE incoming_emails SET received_at = $1 WHERE id = $2", MADE - timedelta(days=2), first
    )

    assert await found(res) == (["7"], {"not_verified": 1})
    assert await found(res, unverified=True) == (["7", "8"], {})


async def test_a_target_must_have_each_e_mail(
    settings: Settings, res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    await add_ticket(database, zendesk, 7, sync_status="failed")
    without = await found(res)
    object.__setattr__(
        res, "settings", settings.model_copy(update={"sync_url": (SecretStr("mongodb://m.example/a.b"),)})
    )

    assert without == (["7"], {})
    assert await found(res) == ([], {"not_synced": 1})


async def test_zendesk_is_asked_whether_the_ticket_is_as_it_was_searched(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    for ticket in (1, 2, 3, 4, 5):
        await add_ticket(database, zendesk, ticket)
    zendesk.state.tickets["1"]["created_at"] = "2020-01-01T00:00:00Z"
    zendesk.state.tickets["2"]["updated_at"] = f"{SEARCHED + timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
    del zendesk.state.tickets["3"]
    for name, ago in (("4", OVERLAP), ("5", OVERLAP + timedelta(seconds=1))):
        zendesk.state.tickets[name]["updated_at"] = f"{SEARCHED - ago:%Y-%m-%dT%H:%M:%SZ}"

    assert await found(res) == (["5"], {"older": 1, "updated": 2, "gone": 1})


async def test_half_of_the_calls_are_left_to_others(
    settings: Settings,
    res: Resources,
    database: asyncpg.Connection,
    zendesk: Zendesk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deletable, "MOST_PAUSES", 1)
    await add_ticket(database, zendesk, 1)
    await use_budget(database, settings, 0.6)

    with pytest.raises(Transient) as caught:
        await found(res)
    assert caught.value.code == "rate_limited"
    assert zendesk.state.calls["tickets/show_many"] == 0


@pytest.mark.parametrize("times", [None, 7, "yesterday", [], "x" * 10_000])
async def test_a_ticket_without_times_is_not_deletable(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, times: Any
) -> None:
    await add_ticket(database, zendesk, 1)
    zendesk.state.tickets["1"]["created_at"] = times

    assert await found(res) == ([], {"gone": 1})


async def test_only_older_tickets_are_listed_on_request(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    await add_ticket(database, zendesk, 1)
    await add_ticket(database, zendesk, 2, made=MADE + timedelta(days=5))

    assert await found(res, before=MADE + timedelta(days=5)) == (["1"], {})


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
async def test_steps_of_any_size_list_each_ticket_once(
    settings: Settings,
    res: Resources,
    database: asyncpg.Connection,
    zendesk: Zendesk,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    """Also a ticket with more comments than a step."""
    sizes = {11: 1, 12: 5, 13: 2, 14: 2, 15: 1}
    for ticket, emails in sizes.items():
        await add_ticket(database, zendesk, ticket, emails=emails)
    sql = str(deletable._LAST).replace(f"OFFSET {deletable.STEP}", f"OFFSET {step}")
    monkeypatch.setattr(deletable, "_LAST", statement(sql))

    seen = [(each.ticket_id, each.emails) async for each in deletable.deletable(res, LeftOut())]

    assert seen == [(str(ticket), emails) for ticket, emails in sizes.items()]


async def test_nothing_is_listed_without_a_search(res: Resources, database: asyncpg.Connection) -> None:
    await database.execute("UPDATE sources SET complete_since = NULL")

    with pytest.raises(Rejected) as caught:
        await found(res)
    assert caught.value.code == "not_searched"


# ── the command


async def test_the_command_writes_csv_and_lines_of_json(
    settings: Settings, database: asyncpg.Connection, zendesk: Zendesk, tmp_path: Path
) -> None:
    await add_ticket(database, zendesk, 7, emails=2)
    await add_ticket(database, zendesk, 8, completed_at=SEARCHED)
    file = tmp_path / "tickets.csv"

    lines = await typed(settings, "emails", "deletable", "--format", "jsonl")
    done = await typed(settings, "emails", "deletable", "--output", str(file), "--before", "1h")

    [row] = csv.DictReader(io.StringIO(await asyncio.to_thread(file.read_text)))
    assert (row["ticket_id"], row["emails"], row["bytes"], row["verified"]) == ("7", "2", "2000", "True")
    assert [json.loads(line)["ticket_id"] for line in lines.stdout.splitlines()] == ["7"]
    assert done.stdout == ""
    assert done.stderr == (
        "1 ticket with 2,000 bytes of files.\n"
        "Left out: 1 ticket that have files that no verification has read: `holdfast storage verify`.\n"
    )


async def test_the_command_says_that_nothing_was_searched(
    settings: Settings, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await database.execute("DELETE FROM sources")
    file = tmp_path / "tickets.csv"

    done = await typed(settings, "emails", "deletable", "--output", str(file))

    assert (done.returncode, await asyncio.to_thread(file.exists)) == (1, False)
    assert "Zendesk was not searched yet" in done.stderr
