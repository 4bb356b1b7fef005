"""E-mails with everything that can hang on them, for tests of their removal."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import asyncpg

from service.custody.objects import step
from service.errors import Permanent
from service.jobs.attachments import FileUpdate, mark
from service.jobs.object_references import ObjectRemoved, Proofs
from service.postgres.engine import connect
from service.postgres.operation_tables import TABLES
from service.resources import Resources
from service.storage import objects
from service.storage.objects import StoredObject
from service.storage.spool import object_key
from tests.support.rows import add

# Rows that stay when an e-mail is removed: the removal itself, and acts of people without their reasons.
STAYS = {"removed_emails", "operator_actions"}


def content(name: str) -> str:
    """Return the hash of a made-up content."""
    return sha256(name.encode()).hexdigest()


async def add_file(database: asyncpg.Connection, email_id: int, position: int, name: str) -> str:
    """Insert a stored file with a made-up content; return the key of its object."""
    key = object_key(content(name))
    about = {"sha256": content(name), "size": 10, "object_key": key, "status": "stored"}
    await add(database, "attachments", email_id=email_id, position=position, source_url="", **about)
    return key


async def add_message(database: asyncpg.Connection, email_id: int, name: str) -> str:
    """Insert a message with a made-up record; return the key of its object."""
    key = object_key(content(name))
    row = {
        "comment_id": str(email_id),
        "direction": "inbound",
        "to": "[]",
        "cc": "[]",
        "text": "Hello",
        "text_size": 5,
    }
    row |= {"has_html": False, "record_sha256": content(name), "record_key": key, "record_size": 100}
    names, places = ", ".join(f'"{each}"' for each in row), ", ".join(f"${n}" for n in range(2, len(row) + 2))
    statement = f"INSERT INTO messages (email_id, {names}) VALUES ($1, {places})"
    await database.execute(statement, email_id, *row.values())
    return key


async def add_finished(database: asyncpg.Connection, **columns: Any) -> int:
    """Insert a completed e-mail; return its id."""
    number = await database.fetchval("SELECT coalesce(max(id), 0) + 1 FROM incoming_emails")
    about = {
        "account_id": "7",
        "zendesk_ticket_id": "4711",
        "comment_id": str(100 + number),
        "attempt_number": 3,
    }
    about |= {
        "processing_status": "completed",
        "sync_status": "synced",
        "subject": "Invoice",
        "from_email": "a@b.example",
    }
    return await add(database, **{**about, **columns})


async def add_whole(database: asyncpg.Connection, name: str = "whole") -> int:
    """Insert a completed e-mail with a row in each table that can have one; return its id."""
    email_id = await add_finished(database, idempotency_key=f"key {name}", identified=True)
    of = {"email_id": email_id}
    raw: dict[str, Any] = {"raw_body": b"{}", "raw_headers": "[]"}
    key = await add_file(database, email_id, 0, f"file of {name}")
    await add_message(database, email_id, f"record of {name}")
    await add(database, "attempts", **of, number=3, worker="one")
    await add(database, "announcements", **of, idempotency_key=f"further {name}", **raw)
    await add(database, "email_words", **of, words="'invoice'")
    await add(
        database, "merged_emails", id=email_id + 1000, **of, idempotency_key=f"merged {name}", version=5
    )
    wrong = {"error_code": "not_json", "error": "No."}
    await add(database, "quarantined_webhooks", **of, idempotency_key=f"q {name}", **wrong, **raw)
    await add(database, "ignored_webhooks", **of, idempotency_key=f"i {name}", event_type="x", **raw)
    await add(database, "operator_actions", **of, actor="ada", action="dismiss", reason="Private.")
    run = await add(database, "reconciliations", kind="verify", actor="ada", fix="all")
    found = {
        "reconciliation_id": run,
        "kind": "extra",
        "detail": json.dumps({"document": {"subject": "Invoice"}}),
    }
    damaged = {
        **found,
        "kind": "object_damaged",
        "detail": json.dumps({"kept_as": object_key(content(f"damaged {name}"))}),
    }
    await add(database, "reconciliation_findings", **of, key=key, **damaged)
    await add(database, "reconciliation_findings", key=f"key {name}", **found)
    await database.execute("UPDATE reconciliations SET status = 'done'")
    await _add_at_zendesk(database, email_id, name)
    return email_id


async def left_of(database: asyncpg.Connection, email_id: int) -> dict[str, int]:
    """Count the rows that name an e-mail, in each table that has any."""
    counts = {}
    for table in TABLES.sorted_tables:
        if "email_id" in table.c and table.name not in STAYS:
            statement = f"SELECT count(*) FROM {table.name} WHERE email_id = $1"
            counts[table.name] = await database.fetchval(statement, email_id)
    counts["incoming_emails"] = await database.fetchval(
        "SELECT count(*) FROM incoming_emails WHERE id = $1", email_id
    )
    return {name: count for name, count in counts.items() if count}


async def _add_at_zendesk(database: asyncpg.Connection, email_id: int, name: str) -> None:
    comment = {"ticket_id": "4711", "comment_id": str(100 + email_id)}
    await database.execute(
        "INSERT INTO sources (account, account_id) VALUES ('a.example', '7') ON CONFLICT DO NOTHING"
    )
    await database.execute(
        "INSERT INTO source_emails (account, ticket_id, comment_id, created_at) VALUES ('a.example', $1, $2, now())",
        *comment.values(),
    )
    await database.execute(
        "INSERT INTO tickets (account_id, ticket_id, subject) VALUES ('7', '4711', 'Invoice') ON CONFLICT DO NOTHING"
    )
    hashes = [content(f"suspended {name}")]
    await database.execute(
        "INSERT INTO suspended_emails (account, suspended_id, text, files, record_sha256, record_key, record_size,"
        " contents, email_id, gone_at) VALUES ('a.example', $1, 'Hello', '[]', $2, $3, 9, $4, $5, now())",
        name,
        hashes[0],
        object_key(hashes[0]),
        hashes,
        email_id,
    )


@dataclass(frozen=True)
class Download:
    """A file whose attempt has put its object, and has not recorded that yet."""

    email_id: int
    stored: StoredObject

    @property
    def update(self) -> FileUpdate:
        return FileUpdate((self.email_id, 1), 0, "stored", self.stored)


async def put(res: Resources, content: bytes) -> StoredObject:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return await objects.put(res.storage, chunks(), None)


async def download(res: Resources, database: asyncpg.Connection, content: bytes) -> Download:
    """Insert an e-mail whose first attempt runs, and put the object of its file."""
    email_id = await add(database, processing_status="processing", attempt_number=1)
    await add(database, "attachments", email_id=email_id, position=0, source_url="")
    return Download(email_id, await put(res, content))


async def record(res: Resources, given: Download, proofs: Proofs = MappingProxyType({})) -> None:
    """Record a file as an attempt does; raises ObjectRemoved."""
    update = replace(given.update, proof=proofs.get(given.stored.key))
    async with connect(res.engine) as conn:
        [result] = await mark(conn, [update])
    if isinstance(result, ObjectRemoved):
        raise result


async def finish(database: asyncpg.Connection, email_id: int) -> None:
    await database.execute(
        "UPDATE incoming_emails SET processing_status = 'completed' WHERE id = $1", email_id
    )


async def remove_object_files(res: Resources, database: asyncpg.Connection) -> None:
    """Take the steps of the remover, whatever the pauses: one stamps requests, the next removes the objects."""
    for _ in range(4):
        await database.execute(
            "UPDATE objects_to_remove SET due_at = now() WHERE state IN ('waiting', 'removing')"
        )
        await step(res)


async def is_there(res: Resources, key: str) -> bool:
    try:
        await objects.stat(res.storage, key)
    except Permanent:
        return False
    return True
