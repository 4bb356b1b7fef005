"""Compare what is on record with what was carried over: each document there once, equal, and nothing else."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.local.drill.findings import Findings, Row
from service.local.drill.ledger import Ledger
from service.local.drill.pace import measure
from service.local.drill.receiving import Kept
from service.local.receiver import Message, read_messages
from service.postgres.email_tables import IncomingEmail
from service.postgres.engine import close_engine, create_engine, run
from service.targets.document import Document, digest, make_document, read_records
from service.targets.webhook import message_id

_SECONDS = 30
_BATCH = 500
# What a receiver says, before it looks at the signature, where the time is not of now: a worker's clock is wrong.
_WRONG_CLOCK = "timestamp"


async def audit_sync(findings: Findings, ledger: Ledger, database_url: str, kept: Kept) -> None:
    """Look at both ends of the sync, past the service; needs a drained system."""
    emails, documents = await _read_record(database_url)
    _check_states(findings, ledger, emails)
    if kept.collection:
        _check_collection(findings, documents, await _read_collection(kept.collection))
    refused = {
        email["idempotency_key"]
        for email in emails
        if (webhook := ledger.webhooks.get(email["zendesk_ticket_id"])) and webhook.sync_code
    }
    messages = await asyncio.to_thread(lambda: list(read_messages(kept.messages)))
    taken = _check_messages(findings, ledger, documents, messages)
    _check_receiver(findings, documents, refused, taken)
    measure(findings, ledger.injuries, emails)


async def _read_record(database_url: str) -> tuple[Sequence[Row], Mapping[str, Document]]:
    """Read all e-mails, and make the document of each that is finished, by its key."""
    engine = create_engine(database_url, pool_size=1, seconds=_SECONDS)
    try:
        table = IncomingEmail.__table__
        everything = select(*(column for column in table.c if column.name != "raw_body")).order_by(table.c.id)
        emails = await run(engine, _SECONDS, partial(_rows, query=everything))
        ids = [email["id"] for email in emails]
        documents = {}
        for place in range(0, len(ids), _BATCH):
            read = partial(read_records, email_ids=ids[place : place + _BATCH])
            records = await run(engine, _SECONDS, read)
            made = [make_document(record, {}) for record in records.values()]
            documents.update({document.key: document for document in made})
        return emails, documents
    finally:
        await close_engine(engine)


async def _rows(conn: AsyncConnection, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in (await conn.execute(query)).mappings()]


async def _read_collection(url: str) -> Sequence[Row]:
    from pymongo import AsyncMongoClient  # noqa: PLC0415 an extra

    database, _, name = urlsplit(url).path.removeprefix("/").partition(".")
    client: AsyncMongoClient[dict[str, Any]]
    client = await asyncio.to_thread(lambda: AsyncMongoClient(url, tz_aware=True))  # it looks at files
    async with client:
        found: Sequence[Row] = await client[database][name].find({}).to_list()
        return found


def _check_states(findings: Findings, ledger: Ledger, emails: Sequence[Row]) -> None:
    for email in emails:
        webhook = ledger.webhooks.get(email["zendesk_ticket_id"])
        code = webhook.sync_code if webhook else None
        findings.broken += [f"e-mail {email['id']}: {what}" for what in _wrong(email, code)]
        findings.synced[email["sync_status"]] += 1
        if email["sync_status"] == "failed":
            findings.sync_failed[str(email["sync_error_code"])] += 1


def _wrong(email: Row, code: str | None) -> Iterator[str]:
    """Name each invariant of the sync's state machine that an e-mail breaks; its sync has to fail with `code`."""
    status, error, synced_at = email["sync_status"], email["sync_error"], email["synced_at"]
    attempts, retries = email["sync_attempt_number"], email["sync_retry_count"]
    if status != ("failed" if code else "synced") or email["sync_error_code"] != code:
        yield (
            f"its sync is {status}, {email['sync_error_code'] or 'no error'} ({error}) after {attempts} attempts;"
            f" it had to end with {code or 'no error'}"
        )
    if bool(error) != bool(email["sync_error_code"]) or (status == "synced" and error):
        yield f"its sync is {status}, with the error {error}"
    if (status == "synced") != (synced_at is not None):
        yield f"its sync is {status}, and it was carried over at {synced_at}"
    if synced_at and email["completed_at"] and synced_at < email["completed_at"]:
        yield f"it was carried over at {synced_at}, and completed only at {email['completed_at']}"
    # An attempt that ended the sync, or that nobody ended, costs no retry.
    if status in {"synced", "failed"} and attempts <= retries:
        yield f"its sync has {retries} retries, in {attempts} attempts"


def _check_collection(findings: Findings, documents: Mapping[str, Document], found: Sequence[Row]) -> None:
    equal = 0
    known = {document.content["email_id"] for document in documents.values()}
    for row in found:
        key, content = row["_id"], {name: value for name, value in row.items() if name != "_id"}
        if document := documents.get(key):
            if differs := _difference(document, content):
                findings.wrong_bytes.append(f"{_about(document)} is in the collection with {differs}")
            else:
                equal += 1
        elif content.get("email_id") in known:
            findings.doubled.append(f"e-mail {content['email_id']} is in the collection as {key!r}, too")
        else:
            findings.broken.append(f"{key!r} is in the collection, and is no e-mail")
    findings.documents = equal
    for key in documents.keys() - {row["_id"] for row in found}:
        findings.lost.append(f"{_about(documents[key])} is not in the collection")


def _check_messages(
    findings: Findings, ledger: Ledger, documents: Mapping[str, Document], messages: Sequence[Message]
) -> Mapping[str, Mapping[str, Any]]:
    """Take messages as a receiver does, the first of each id; return the latest version of each e-mail, by its key."""
    clocks = any(injury.fault == "clock.skew" for injury in ledger.injuries)
    first: dict[str, Mapping[str, Any]] = {}
    latest: dict[str, Mapping[str, Any]] = {}
    for message in messages:
        if message.body is None:
            if not (clocks and _WRONG_CLOCK in (message.refused or "")):
                findings.broken.append(f"the receiver refused {message.id!r}: {message.refused}")
            continue
        findings.messages += 1
        data = message.body["data"]
        before = first.setdefault(message.id, data)
        if digest(before) != digest(data):
            findings.wrong_bytes.append(f"the message {message.id!r} came again, and says something else")
        if data["version"] > latest.get(data["id"], {"version": 0})["version"] and before is data:
            latest[data["id"]] = data
        document = documents.get(data["id"])
        if before is data and document and message.id != message_id(document):
            findings.doubled.append(f"{_about(document)} was posted as {message.id!r}, too")
    return latest


def _check_receiver(
    findings: Findings,
    documents: Mapping[str, Document],
    refused: Collection[str],
    taken: Mapping[str, Mapping[str, Any]],
) -> None:
    for key, data in taken.items():
        content = {name: value for name, value in data.items() if name != "id"}
        if (document := documents.get(key)) is None or key in refused:
            findings.broken.append(f"the receiver has {key!r}, which it must not have")
        elif differs := _difference(document, content):
            findings.wrong_bytes.append(f"{_about(document)} is at the receiver with {differs}")
        else:
            findings.received += 1
    for key in documents.keys() - taken.keys() - set(refused):
        findings.lost.append(f"{_about(documents[key])} is not at the receiver")


def _difference(document: Document, content: Mapping[str, Any]) -> str | None:
    if content.get("version") != document.version:
        return f"version {content.get('version')}, not {document.version}"
    return None if digest(content) == digest(document.content) else "another content than is on record"


def _about(document: Document) -> str:
    return f"e-mail {document.content['email_id']}"
