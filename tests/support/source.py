"""Insert what Zendesk lists, past the service: sources, comments by e-mail, suspended e-mails."""

import json
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import asyncpg

from service.config.settings import Settings
from service.zendesk.account import account_of
from service.zendesk.rate_limit import key_of
from tests.support.rows import add

ACCOUNT_ID = "13000001"


def asking(settings: Settings, **changes: object) -> Settings:
    """Return settings with which workers ask Zendesk."""
    return settings.model_copy(update={"backfill_minutes": 5, **changes})


def account_key(settings: Settings) -> str:
    url = account_of(settings).url
    assert url is not None
    return key_of(url)


async def today(database: asyncpg.Connection) -> date:
    now: datetime = await database.fetchval("SELECT now()")
    return now.astimezone(UTC).date()


def noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


async def add_source(database: asyncpg.Connection, account: str, **columns: Any) -> None:
    """Insert an account that was searched completely, since 30 days ago and until a minute ago."""
    now: datetime = await database.fetchval("SELECT now()")
    values = {
        "account": account,
        "account_id": ACCOUNT_ID,
        "complete_since": now - timedelta(days=30),
        "began_at": now - timedelta(days=30),
        "watermark": now - timedelta(minutes=1),
        "checked_at": now - timedelta(minutes=1),
        **columns,
    }
    if isinstance(values.get("proof"), dict):
        values["proof"] = json.dumps(values["proof"])
    await add(database, "sources", **values)


async def use_budget(database: asyncpg.Connection, settings: Settings, share: float) -> None:
    """Use up a share of this minute's calls to Zendesk."""
    await database.execute(
        "INSERT INTO api_budgets (account, calls_per_minute, used, window_ends_at)"
        " VALUES ($1, 1000, $2, now() + interval '1 minute')",
        account_key(settings),
        int(10 * settings.zendesk_calls_percent * share),
    )


async def list_comment(
    database: asyncpg.Connection, account: str, ticket: str, comment: str, at: datetime
) -> None:
    """Let Zendesk list a comment by e-mail."""
    row = {"account": account, "ticket_id": ticket, "comment_id": comment, "created_at": at}
    names = ", ".join(row)
    await database.execute(f"INSERT INTO source_emails ({names}) VALUES ($1, $2, $3, $4)", *row.values())


async def keep(
    database: asyncpg.Connection, ticket: str, comment: str, status: str = "completed", **columns: Any
) -> int:
    """Insert the e-mail of a comment; return its id."""
    values = {"account_id": ACCOUNT_ID, "identified": True, **columns}
    return await add(
        database,
        zendesk_ticket_id=ticket,
        comment_id=comment,
        processing_status=status,
        **values,
    )


async def say(database: asyncpg.Connection, email_id: int, comment: str, **columns: Any) -> None:
    """Insert the message of an e-mail."""
    values = {
        "email_id": email_id,
        "comment_id": comment,
        "direction": "inbound",
        "to": "[]",
        "cc": "[]",
        "text": "Hello",
        "text_size": 5,
        "has_html": False,
        "record_sha256": "0" * 64,
        "record_key": "sha256/0",
        "record_size": 10,
        **columns,
    }
    names = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    await database.execute(f"INSERT INTO messages ({names}) VALUES ({places})", *values.values())


async def refuse(
    database: asyncpg.Connection, account: str, ticket: str, since: datetime, **columns: Any
) -> None:
    """Let Zendesk refuse a ticket to the credentials."""
    values = {"error_code": "forbidden", "error": "Zendesk refuses these credentials", **columns}
    names = {"account": account, "ticket_id": ticket, "since": since, **values}
    places = ", ".join(f"${place}" for place in range(1, len(names) + 1))
    await database.execute(
        f"INSERT INTO refused_tickets ({', '.join(names)}) VALUES ({places})", *names.values()
    )


async def suspend(database: asyncpg.Connection, account: str, number: int, **columns: Any) -> int:
    """Insert a suspended e-mail that Zendesk still holds."""
    values = {
        "account": account,
        "suspended_id": str(number),
        "subject": f"Offer {number}",
        "from_address": "someone@shop.example",
        "from_name": "Someone",
        "recipient": "support@acme.example",
        "cause": "Detected as spam",
        "text": "Buy now",
        "files": "[]",
        "record_sha256": "0" * 64,
        "record_key": "sha256/0",
        "record_size": 10,
        **columns,
    }
    return await add(database, "suspended_emails", **values)
