"""Compare Postgres with the sync's targets: each document must be there once, equal, and nothing else."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.local.drill.ledger import Injection, Ledger
from service.local.drill.verdict import AuditResult, Row, recoveries
from service.local.receiver import Message, read_messages
from service.postgres.email_tables import IncomingEmail, key_of_email
from service.postgres.engine import close_engine, create_engine, run
from service.postgres.message_tables import MergedEmail
from service.postgres.removal_tables import RemovedEmail
from service.targets.document import Document, digest, make_document, read_records
from service.targets.merged import Replaced, make_merged_document
from service.targets.removed import RemovedDocument, make_deleted_document
from service.targets.webhook import message_id

_SECONDS = 30
_BATCH = 500
# The receiver's reason for refusing a message of a worker whose clock is wrong.
_WRONG_CLOCK = "timestamp"
# These faults keep documents from a target for some time and harm nothing else.
_TARGET_OUTAGES = frozenset({"target.away", "target.slow", "target.frozen"})


# E-mails that became part of another one after they may have been in the targets.
_MERGED: Select[*tuple[Any, ...]] = (
    select(
        MergedEmail.idempotency_key.label("key"),
        MergedEmail.id.label("email_id"),
        MergedEmail.version,
        MergedEmail.merged_at,
        MergedEmail.email_id.label("merged_into"),
        key_of_email().label("merged_into_key"),
    )
    .join(IncomingEmail, IncomingEmail.id == MergedEmail.email_id)
    .where(MergedEmail.version.is_not(None))
)

# E-mails that were removed after they may have been in the targets.
_REMOVED: Select[*tuple[Any, ...]] = select(
    RemovedEmail.document_key.label("key"),
    RemovedEmail.email_id,
    RemovedEmail.version,
    RemovedEmail.removed_at,
).where(RemovedEmail.target_due_at.is_not(None))


async def audit_sync(
    result: AuditResult, ledger: Ledger, database_url: str, collection_url: str | None, messages: Path
) -> None:
    """Audit both ends of the sync past the service; the system must be drained."""
    emails, documents = await _read_emails(database_url)
    _check_states(result, ledger, emails)
    if collection_url:
        _check_collection(result, documents, await _read_collection(collection_url))
    refused = {
        email["idempotency_key"]
        for email in emails
        if (webhook := ledger.webhooks.get(email["zendesk_ticket_id"])) and webhook.sync_code
    }
    received = await asyncio.to_thread(lambda: list(read_messages(messages)))
    latest = _check_messages(result, ledger, documents, received)
    _check_receiver(result, documents, refused, latest)
    _measure(result, ledger.injections, emails)


async def _read_emails(database_url: str) -> tuple[Sequence[Row], Mapping[str, Document]]:
    """Read all e-mails, and make the documents of the finished ones, by their keys."""
    engine = create_engine(database_url, pool_size=1, seconds=_SECONDS)
    try:
        table = IncomingEmail.__table__
        query = select(*(column for column in table.c if column.name != "raw_body")).order_by(table.c.id)
        emails = await run(engine, _SECONDS, partial(_rows, query=query))
        ids = [email["id"] for email in emails]
        documents = {}
        for start in range(0, len(ids), _BATCH):
            read = partial(read_records, email_ids=ids[start : start + _BATCH])
            records = await run(engine, _SECONDS, read)
            made = [make_document(record, {}) for record in records.values()]
            documents.update({document.key: document for document in made})
        merged = await run(engine, _SECONDS, partial(_rows, query=_MERGED))
        replaced = [make_merged_document(Replaced(**row)) for row in merged]
        removed = await run(engine, _SECONDS, partial(_rows, query=_REMOVED))
        replaced += [make_deleted_document(RemovedDocument(**row)) for row in removed]
        return emails, documents | {document.key: document for document in replaced}
    finally:
        await close_engine(engine)


async def _rows(conn: AsyncConnection, query: Select[*tuple[Any, ...]]) -> list[Row]:
    return [dict(row) for row in (await conn.execute(query)).mappings()]


async def _read_collection(url: str) -> Sequence[Row]:
    from pymongo import AsyncMongoClient  # noqa: PLC0415 an extra

    database, _, name = urlsplit(url).path.removeprefix("/").partition(".")
    client: AsyncMongoClient[dict[str, Any]]
    client = await asyncio.to_thread(lambda: AsyncMongoClient(url, tz_aware=True))  # it reads files
    async with client:
        found: Sequence[Row] = await client[database][name].find({}).to_list()
        return found


def _check_states(result: AuditResult, ledger: Ledger, emails: Sequence[Row]) -> None:
    for email in emails:
        webhook = ledger.webhooks.get(email["zendesk_ticket_id"])
        code = webhook.sync_code if webhook else None
        result.broken += [f"e-mail {email['id']}: {problem}" for problem in _sync_problems(email, code)]
        result.synced[email["sync_status"]] += 1
        if email["sync_status"] == "failed":
            result.sync_failed[str(email["sync_error_code"])] += 1


def _sync_problems(email: Row, code: str | None) -> Iterator[str]:
    """Describe each invariant of the sync's state machine that an e-mail breaks; `code` is the expected error."""
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
        yield f"its sync is {status}, and it was synced at {synced_at}"
    if synced_at and email["completed_at"] and synced_at < email["completed_at"]:
        yield f"it was synced at {synced_at}, and completed only at {email['completed_at']}"
    # The last attempt ended the sync and costs no retry.
    if status in {"synced", "failed"} and attempts <= retries:
        yield f"its sync has {retries} retries, in {attempts} attempts"


def _check_collection(result: AuditResult, documents: Mapping[str, Document], found: Sequence[Row]) -> None:
    equal = 0
    known = {document.content["email_id"] for document in documents.values()}
    for row in found:
        key, content = row["_id"], {name: value for name, value in row.items() if name != "_id"}
        if document := documents.get(key):
            if difference := _difference(document, content):
                result.wrong_bytes.append(f"{_about(document)} is in the collection with {difference}")
            else:
                equal += 1
        elif content.get("email_id") in known:
            result.doubled.append(f"e-mail {content['email_id']} is in the collection as {key!r}, too")
        else:
            result.broken.append(f"{key!r} is in the collection, and is no e-mail")
    result.documents = equal
    for key in documents.keys() - {row["_id"] for row in found}:
        result.lost.append(f"{_about(documents[key])} is not in the collection")


def _check_messages(
    result: AuditResult, ledger: Ledger, documents: Mapping[str, Document], messages: Sequence[Message]
) -> Mapping[str, Mapping[str, Any]]:
    """Accept the first message of each id, as receivers do; return the latest version of each e-mail by its key."""
    is_skewed = any(injection.fault == "clock.skew" for injection in ledger.injections)
    first: dict[str, Mapping[str, Any]] = {}
    latest: dict[str, Mapping[str, Any]] = {}
    for message in messages:
        if message.body is None:
            if not (is_skewed and _WRONG_CLOCK in (message.refused or "")):
                result.broken.append(f"the receiver refused {message.id!r}: {message.refused}")
            continue
        result.messages += 1
        data = message.body["data"]
        earlier = first.setdefault(message.id, data)
        if digest(earlier) != digest(data):
            result.wrong_bytes.append(f"the message {message.id!r} came twice with different contents")
        if data["version"] > latest.get(data["id"], {"version": 0})["version"] and earlier is data:
            latest[data["id"]] = data
        document = documents.get(data["id"])
        is_newest = document is not None and data["version"] == document.version
        if earlier is data and document and is_newest and message.id != message_id(document):
            result.doubled.append(f"{_about(document)} was posted as {message.id!r}, too")
    return latest


def _check_receiver(
    result: AuditResult,
    documents: Mapping[str, Document],
    refused: Collection[str],
    latest: Mapping[str, Mapping[str, Any]],
) -> None:
    for key, data in latest.items():
        content = {name: value for name, value in data.items() if name != "id"}
        if (document := documents.get(key)) is None or key in refused:
            result.broken.append(f"the receiver has {key!r}, which it must not have")
        elif difference := _difference(document, content):
            result.wrong_bytes.append(f"{_about(document)} is at the receiver with {difference}")
        else:
            result.received += 1
    for key in documents.keys() - latest.keys() - set(refused):
        result.lost.append(f"{_about(documents[key])} is not at the receiver")


def _difference(document: Document, content: Mapping[str, Any]) -> str | None:
    if content.get("version") != document.version:
        return f"version {content.get('version')}, not {document.version}"
    return None if digest(content) == digest(document.content) else "another content than in Postgres"


def _about(document: Document) -> str:
    return f"e-mail {document.content['email_id']}"


def _measure(result: AuditResult, injections: Sequence[Injection], emails: Sequence[Row]) -> None:
    """Measure the longest sync, recoveries from faults of targets, and the speed of jobs during these faults."""
    spans = [
        (email["completed_at"].timestamp(), email["synced_at"].timestamp())
        for email in emails
        if email["completed_at"] and email["synced_at"]
    ]
    result.longest_sync = max((end - start for start, end in spans), default=0)
    of_targets = [injection for injection in injections if injection.fault.startswith("target.")]
    result.sync_recoveries = recoveries(of_targets, spans)
    result.waits = {
        is_away: (len(waits), median(waits))
        for is_away in (True, False)
        if (waits := [*_waits(injections, emails, is_away=is_away)])
    }


def _waits(injections: Sequence[Injection], emails: Sequence[Row], *, is_away: bool) -> Iterator[float]:
    """Return the seconds from webhook to `completed` of e-mails received during outages of targets, or outside."""
    outages = [
        (injection.began, injection.ended)
        for injection in injections
        if injection.had_effect and injection.ended and injection.fault in _TARGET_OUTAGES
    ]
    for email in emails:
        if email["processing_status"] == "completed" and email["completed_at"]:
            received = email["received_at"].timestamp()
            if any(began <= received <= ended for began, ended in outages) is is_away:
                yield email["completed_at"].timestamp() - received
