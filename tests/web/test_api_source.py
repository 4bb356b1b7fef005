"""`GET /api/v1/source`: the ledger as JSON, and the new fields and filters of e-mails."""

from datetime import timedelta

import asyncpg
import pytest

from service.config.settings import Settings
from tests.conftest import Client
from tests.support.source import (
    account_key,
    add_source,
    asking,
    keep,
    list_comment,
    noon,
    suspend,
    today,
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return asking(settings)


async def test_without_any_search_the_answer_is_unknown(client: Client) -> None:
    ledger = await client.get("/api/v1/source")

    assert (ledger["state"], ledger["verdict"]) == ("unknown", "Zendesk was not asked yet.")
    assert (ledger["accounts"], ledger["days"], ledger["emails"], ledger["next_before"]) == (
        [],
        [],
        None,
        None,
    )


async def test_the_ledger_has_days_and_the_list_behind_each_number(
    client: Client, settings: Settings, database: asyncpg.Connection
) -> None:
    account, day = account_key(settings), await today(database) - timedelta(days=1)
    await add_source(database, account)
    kept, failed = await keep(database, "7", "1"), await keep(database, "7", "2", "failed", error_code="gone")
    for number in range(1, 4):
        await list_comment(database, account, "7", str(number), noon(day))
    await suspend(database, account, 1, created_at=noon(day))

    ledger = await client.get("/api/v1/source")
    counts = next(each for each in ledger["days"] if each["day"] == day.isoformat())
    lists = {
        name: [
            (each["comment_id"], each["state"], each["email_id"], each["error_code"])
            for each in (await client.get(f"/api/v1/source?day={day}&list={name}"))["emails"]
        ]
        for name in ("open", "in_zendesk", "kept", "failed", "missing", "dismissed", "in_work", "unlisted")
    }

    assert counts == {
        "account": account,
        "day": day.isoformat(),
        "in_zendesk": 3,
        "kept": 1,
        "in_work": 0,
        "failed": 1,
        "dismissed": 0,
        "missing": 1,
        "unread": 0,
        "suspended": 1,
        "searched": "whole",
        "unlisted": 0,
        "capped": False,
    }
    ones = ("1", "kept", kept, None), ("2", "failed", failed, "gone"), ("3", "missing", None, None)
    assert lists == {
        "open": [ones[1], ones[2]],
        "in_zendesk": [*ones],
        "kept": [ones[0]],
        "failed": [ones[1]],
        "missing": [ones[2]],
        "dismissed": [],
        "in_work": [],
        "unlisted": [],
    }
    [source] = ledger["accounts"]
    assert (source["leg"], source["suspended_held"], source["found_without_webhook"]) == ("events", 1, 0)
    assert ledger["verdict"].startswith(
        "1 e-mail that Zendesk has is missing here, and 1 failed. Checked 1 min"
    )


@pytest.mark.parametrize(
    "query",
    [
        *("day=yesterday", "day=20260131", "day=1", "day=2026-02-30", "before=2026-1-1", "list=all"),
        *("day=2026-01-31&cursor=x", "account=%00", "unknown=1", "day=2026-01-31&day=2026-01-31"),
    ],
)
async def test_a_wrong_parameter_is_refused(client: Client, query: str) -> None:
    assert (await client.get(f"/api/v1/source?{query}", status=400))["code"] in {
        "bad_parameter",
        "bad_cursor",
    }


async def test_emails_tell_their_origin_and_what_zendesk_did_since(
    client: Client, database: asyncpg.Connection
) -> None:
    plain = await keep(database, "1", "1")
    found = await keep(database, "1", "2", origin="backfill")
    changed = await keep(database, "1", "3", origin="lookup", zendesk_state="redacted")
    await database.execute(
        "UPDATE incoming_emails SET zendesk_state_at = '2026-01-31 12:00+0' WHERE id = $1", changed
    )

    async def listed(query: str) -> list[int]:
        return [email["id"] for email in (await client.get(f"/api/v1/emails?{query}"))["emails"]]

    email = await client.email(changed)
    assert [email[name] for name in ("origin", "zendesk_state", "zendesk_state_at")] == [
        "lookup",
        "redacted",
        "2026-01-31T12:00:00Z",
    ]
    assert (await client.email(plain))["zendesk_state"] is None
    assert await listed("origin=webhook") == [plain]
    assert await listed("origin=backfill") == [found]
    assert await listed("zendesk_state=any") == await listed("zendesk_state=redacted") == [changed]
    assert await listed("zendesk_state=deleted") == []


async def test_the_overview_says_whether_all_is_kept(
    client: Client, settings: Settings, database: asyncpg.Connection
) -> None:
    account = account_key(settings)
    unasked = await client.get("/api/v1/overview")
    await add_source(database, account, complete_since=noon(await today(database)) - timedelta(days=900))
    await list_comment(database, account, "1", "1", noon(await today(database)))
    missing = await client.get("/api/v1/overview")
    await keep(database, "1", "1")
    kept = await client.get("/api/v1/overview")
    await database.execute("UPDATE sources SET checked_at = now() - interval '1 day'")
    late = await client.get("/api/v1/overview")

    assert (unasked["state"], "Zendesk was not asked yet." in unasked["verdict"]) == ("safe", True)
    assert missing["state"] == "attention"
    assert "1 e-mail that Zendesk has is missing here." in missing["verdict"]
    assert kept["state"] == "safe"
    assert kept["completeness"]["state"] == "complete"
    assert kept["completeness"]["sentence"] in kept["verdict"]
    assert "None needs attention." in kept["verdict"]
    assert late["state"] == "attention"
    assert "Zendesk was last asked 1 d ago." in late["verdict"]
