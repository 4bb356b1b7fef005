"""Compare the sender's ledger with every row, attempt and object."""

import asyncio
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from service.connect.record import TEST_EVENT
from service.local.drill.connection import Connection, audit_connection
from service.local.drill.custody import Custody, audit_custody
from service.local.drill.ledger import Ledger, SentEmail, Webhook
from service.local.drill.message_audit import check_messages, check_requests, key_of
from service.local.drill.source import Suspensions, audit_source
from service.local.drill.verdict import AuditResult, Row, recoveries
from service.storage.interface import HEAD_KEY

# Younger temporary files may belong to an upload; a drained system has had none for longer.
_YOUNG_SECONDS = 30
# The outcome of the last attempt, by the state of the job; earlier attempts gave the job back.
_LAST_OUTCOMES = {"completed": {"completed"}, "failed": {"failed", "abandoned"}}
_GIVEN_BACK = {"released", "abandoned", "handed_back"}
_ENDS = {"completed", "failed"}
# The tables to read, with their order.
_TABLES = {
    "incoming_emails": "id",
    "attempts": "email_id, number",
    "attachments": "email_id, position",
    "messages": "email_id",
    "announcements": "id",
    "merged_emails": "id",
    "quarantined_webhooks": "id",
    "ignored_webhooks": "id",
    "source_emails": "ticket_id, comment_id",
    "suspended_emails": "id",
    "sources": "account",
    "connections": "account",
    "removed_emails": "email_id",
    "receipts": "id",
    "loose_objects": "number",
}


async def audit(  # noqa: PLR0913 the parts of a drill
    ledger: Ledger,
    database_url: str,
    objects: Path,
    *,
    suspensions: Suspensions | None = None,
    connection: Connection | None = None,
    custody: Custody | None = None,
) -> AuditResult:
    """Audit intake, jobs and messages past the service; the system must be drained."""
    tables = await _read(database_url)
    emails, files = tables["incoming_emails"], _group("email_id", tables["attachments"])
    result = AuditResult(broken=list(ledger.unexpected), merged=len(tables["merged_emails"]))
    _check_acknowledgements(result, ledger)
    _check_emails(result, ledger, emails, tables["merged_emails"])
    _check_quarantine(result, ledger, tables["quarantined_webhooks"])
    check_requests(result, ledger, _requests(tables))
    _check_ends(result, ledger, tables)
    stored = await asyncio.to_thread(_read_objects, result, objects)
    used = {file["object_key"] for file in tables["attachments"]}
    used |= {email["record_key"] for email in tables["suspended_emails"]}
    used |= {message[key] for message in tables["messages"] for key in ("record_key", "original_key")}
    # The record of a suspended e-mail that was recovered before it was saved: it is removed after an hour.
    used |= {note["key"] for note in tables["loose_objects"] if note["email_id"] is None}
    result.broken += [f"{key} belongs to no e-mail" for key in stored if key not in used]
    _check_files(result, ledger, emails, files, stored)
    check_messages(result, ledger, {email["id"]: email for email in emails}, tables["messages"], stored)
    if suspensions is not None:
        audit_source(result, ledger, suspensions, tables, stored)
    if connection is not None:
        audit_connection(result, connection, tables)
    if custody is not None:
        audit_custody(result, custody, tables)
    spans = [
        (email["received_at"].timestamp(), email["completed_at"].timestamp())
        for email in emails
        if email["processing_status"] == "completed" and email["completed_at"]
    ]
    result.longest_wait = max((end - start for start, end in spans), default=0)
    result.recoveries = recoveries(ledger.injections, spans)
    return result


async def _read(database_url: str) -> Mapping[str, Sequence[Row]]:
    """Read the tables in one snapshot of the database."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return {
                table: await connection.fetch(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608 constants
                for table, order in _TABLES.items()
            }
    finally:
        await connection.close()


def _requests(tables: Mapping[str, Sequence[Row]]) -> Mapping[str, Sequence[bytes]]:
    """Return the bodies of all requests on record, by place."""
    of_emails = [*tables["incoming_emails"], *tables["announcements"]]
    return {
        "e-mails": [row["raw_body"] for row in of_emails if row["raw_body"] is not None],
        "quarantined": [row["raw_body"] for row in tables["quarantined_webhooks"]],
        "ignored": [row["raw_body"] for row in tables["ignored_webhooks"] if row["event_type"] != TEST_EVENT],
    }


def _check_acknowledgements(result: AuditResult, ledger: Ledger) -> None:
    """Report a drill that proves nothing: a system that acknowledges nothing loses nothing."""
    acknowledged = ledger.count("ok")
    if not acknowledged:
        result.broken.append("no webhook was acknowledged, so the drill proves nothing")
    elif not ledger.injections and acknowledged < len(ledger.webhooks):
        missing = len(ledger.webhooks) - acknowledged
        result.broken.append(f"{missing} webhooks were not acknowledged, without any fault")


def _check_emails(result: AuditResult, ledger: Ledger, emails: Sequence[Row], merged: Sequence[Row]) -> None:
    """Check that there is one row for each e-mail that was sent, and none for anything else."""
    rows = _group("zendesk_ticket_id", emails)
    into = {row["id"]: row["email_id"] for row in merged}
    for ticket, mine in rows.items():
        for comment, same in (
            _group("comment_id", mine).items() if ticket in ledger.emails else [(None, mine)]
        ):
            about = f"comment {comment} of ticket {ticket}" if comment else f"ticket {ticket}"
            expected = ledger.expected(ticket, comment)
            if expected is None:
                result.broken.append(f"{about} has an e-mail, and none was sent")
            elif isinstance(expected, Webhook) and any(email["raw_body"] != expected.body for email in same):
                result.wrong_bytes.append(f"{about} has another body than was sent")
            if len(same) > 1:
                result.doubled.append(f"{about} has {len(same)} e-mails")
    for webhook in ledger.webhooks.values():
        if not (webhook.is_garbage or webhook.is_ignored):
            mine = rows.get(webhook.ticket_id, [])
            comment = webhook.email.comment_id if webhook.email else None
            mine = [email for email in mine if comment in {None, email["comment_id"]}]
            _check_promise(result, webhook, mine, into)
    for ticket, sent in ledger.emails.items():
        # None of them needs a webhook: the search of the account finds each.
        known = {email["comment_id"] for email in rows.get(ticket, [])}
        result.lost += [f"comment {each} of ticket {ticket} is not there" for each in sent.keys() - known]


def _check_quarantine(result: AuditResult, ledger: Ledger, quarantined: Sequence[Row]) -> None:
    result.quarantined = len(quarantined)
    rows = _group("raw_body", quarantined)
    sent = {webhook.body: webhook for webhook in ledger.webhooks.values()}
    for body, mine in rows.items():
        webhook = sent.get(body)
        if webhook is None:
            result.broken.append(f"{body!r} is in quarantine, and was never sent")
        elif not webhook.is_garbage:
            result.broken.append(f"ticket {webhook.ticket_id} is in quarantine, but can be parsed")
        if len(mine) > 1:
            result.doubled.append(f"{body!r} is in quarantine {len(mine)} times")
    for webhook in ledger.webhooks.values():
        if webhook.is_garbage:
            _check_promise(result, webhook, rows.get(webhook.body, []))


def _check_promise(
    result: AuditResult, webhook: Webhook, rows: Sequence[Row], into: Mapping[int, int] | None = None
) -> None:
    """Compare the ids that the sender received with the ids of the webhook's rows, and of those merged `into` them."""
    about, ids = f"ticket {webhook.ticket_id} ({webhook.kind})", {row["id"] for row in rows}
    former = {number for number, email_id in (into or {}).items() if email_id in ids}
    if len(webhook.ids - former) > 1:
        result.doubled.append(f"{about} was given the ids {sorted(webhook.ids)}")
    if webhook.outcome == "ok" and not ids:
        result.lost.append(f"{about} was acknowledged and is not there")
    elif not webhook.ids <= ids | former:
        result.broken.append(f"{about} was given the ids {sorted(webhook.ids)}, it has {sorted(ids)}")
    if webhook.outcome != "ok":
        result.unacknowledged += len(rows)


def _check_ends(result: AuditResult, ledger: Ledger, tables: Mapping[str, Sequence[Row]]) -> None:
    """Check how each job ended, and by which attempts; those of an e-mail that became part of it count from 0 down."""
    attempts = _group("email_id", [row for row in tables["attempts"] if row["number"] > 0])
    joined = {row["email_id"] for row in tables["merged_emails"]}
    for email in tables["incoming_emails"]:
        mine, status = attempts.get(email["id"], []), email["processing_status"]
        sent = ledger.expected(email["zendesk_ticket_id"], email["comment_id"])
        # Further files or requests queue a finished job again.
        may_reopen = isinstance(sent, SentEmail)
        problems = _job_problems(email, mine, may_reopen=may_reopen, is_joined=email["id"] in joined)
        result.broken += [f"e-mail {email['id']}: {problem}" for problem in problems]
        if sent and status in {"completed", "failed"} and email["error_code"] != sent.code:
            result.broken.append(
                f"e-mail {email['id']} ({sent.kind}) is {status}, {email['error_code'] or 'no error'}"
                f" ({email['processing_error']}); it had to end with {sent.code or 'no error'};"
                f" its attempts: {', '.join(map(_describe_attempt, mine))}"
            )
        result.emails[status] += 1
        if status == "failed":
            result.failed[str(email["error_code"])] += 1
        result.outcomes.update(str(attempt["outcome"]) for attempt in mine)


def _job_problems(email: Row, attempts: Sequence[Row], *, may_reopen: bool, is_joined: bool) -> Iterator[str]:
    """Describe each invariant of the job's state machine that an e-mail of a drained system breaks."""
    status, lease = email["processing_status"], email["lease_until"]
    if status not in _LAST_OUTCOMES:
        yield f"it is {status} in the end, lease until {lease}"
        return
    outcomes = [attempt["outcome"] for attempt in attempts]
    if not _LAST_OUTCOMES[status].intersection(outcomes[-1:]):
        yield f"it is {status}, its attempts ended as {outcomes}"
    if not (_GIVEN_BACK | (_ENDS if may_reopen else set())).issuperset(outcomes[:-1]):
        yield f"another attempt followed its end, its attempts ended as {outcomes}"
    numbers, all_numbers = [attempt["number"] for attempt in attempts], range(1, email["attempt_number"] + 1)
    # A merge gives a finished e-mail a number of its own, and so does a subject that comes after its sync.
    is_revised = may_reopen and len(all_numbers) - len(numbers) == 1
    if numbers != list(all_numbers) and not ((is_joined or is_revised) and set(numbers) <= set(all_numbers)):
        yield f"attempt_number is {email['attempt_number']}, its attempts are numbered {numbers}"
    ends = [place for place, outcome in enumerate(outcomes[:-1], 1) if outcome in _ENDS]
    least, most = outcomes[max(ends, default=0) : -1].count("released"), outcomes[:-1].count("released")
    if not least <= email["retry_count"] <= most:
        yield f"retry_count is {email['retry_count']}, its attempts ended as {outcomes}"
    if status == "failed" and not (email["error_code"] and email["processing_error"]):
        yield "it failed without a reason"
    if lease is not None:
        yield f"it is {status}, and has a lease until {lease}"
    yield from _time_problems(email, attempts)


def _time_problems(email: Row, attempts: Sequence[Row]) -> Iterator[str]:
    times = [email["received_at"], email["started_at"], email["completed_at"]]
    if not _are_in_order(times):
        yield f"it was received, started, completed at {_format_times(times)}"
        return
    runs = [time for attempt in attempts for time in (attempt["started_at"], attempt["finished_at"])]
    if not _are_in_order([email["received_at"], *runs]) or runs[-2:] != times[1:]:
        yield (
            f"it was started and completed at {_format_times(times[1:])},"
            f" its attempts ran at {_format_times(runs)}"
        )


def _are_in_order(times: Sequence[datetime | None]) -> bool:
    known = [time for time in times if time is not None]
    return len(known) == len(times) and known == sorted(known)


def _format_times(times: Sequence[datetime | None]) -> str:
    return ", ".join(f"{time:%H:%M:%S.%f}" if time else "never" for time in times)


def _describe_attempt(attempt: Row) -> str:
    times = _format_times([attempt["started_at"], attempt["finished_at"]])
    return f"{attempt['outcome']} {attempt['error_code'] or ''} ({attempt['worker']}, {times})"


def _read_objects(result: AuditResult, objects: Path) -> Mapping[str, int]:
    """Hash every object; return the sizes by key."""
    stored = {}
    for path in sorted(objects.rglob("*")):
        if not path.is_file():
            continue
        key = str(path.relative_to(objects))
        if HEAD_KEY.fullmatch(key):
            continue  # `holdfast evidence verify` checks these
        if not key.startswith("sha256/"):
            if time.time() - path.stat().st_mtime > _YOUNG_SECONDS:
                result.broken.append(f"{key} was left behind")
            continue
        content = path.read_bytes()
        if key != key_of(hashlib.sha256(content).hexdigest()):
            result.wrong_bytes.append(f"{key} does not match its content")
        stored[key] = len(content)
    result.objects, result.object_bytes = len(stored), sum(stored.values())
    return stored


def _check_files(
    result: AuditResult,
    ledger: Ledger,
    emails: Sequence[Row],
    files: Mapping[int, Sequence[Row]],
    stored: Mapping[str, int],
) -> None:
    """Check the files of each e-mail that ended."""
    for email in emails:
        sent = ledger.expected(email["zendesk_ticket_id"], email["comment_id"])
        if sent is None or email["processing_status"] not in {"completed", "failed"}:
            continue  # other checks report these
        name, mine = f"e-mail {email['id']} ({sent.kind})", files.get(email["id"], [])
        result.lost += [f"{name} {problem}" for problem in _file_problems(sent, mine, stored)]
        if isinstance(sent, SentEmail) or sent.code is None:
            result.files += sum(file["status"] == "stored" for file in mine)
            result.wrong_bytes += [f"{name} {problem}" for problem in _wrong_files(sent, mine)]


def _file_problems(
    sent: SentEmail | Webhook, files: Sequence[Row], stored: Mapping[str, int]
) -> Iterator[str]:
    withheld = sent.withheld if isinstance(sent, SentEmail) else 0
    if len(files) != len(sent.files) + withheld:
        yield f"has {len(files)} of {len(sent.files) + withheld} files"
    for file in files:
        key, about = file["object_key"], f"has no object for file {file['position']}"
        is_withheld = bool(withheld) and file["error_code"] == sent.code
        if file["status"] != "stored" and not is_withheld and (sent.code is None or withheld):
            yield f"{about}: it is {file['status']}, {file['error_code']}"
        elif file["status"] == "stored" and (key != key_of(file["sha256"] or "") or key not in stored):
            yield f"{about}: {key}"
        elif file["status"] == "stored" and stored[key] != file["size"]:
            yield f"{about}: {key} has {stored[key]} bytes, not {file['size']}"


def _wrong_files(sent: SentEmail | Webhook, files: Sequence[Row]) -> Iterator[str]:
    """Describe stored files that differ from those served; those of Zendesk's list have no fixed order."""
    if isinstance(sent, SentEmail):
        unknown = Counter(file["sha256"] for file in files if file["status"] == "stored")
        unknown.subtract(sent.files)
        yield from (f"has a file {sha256} that was not served" for sha256 in (+unknown))
    else:
        yield from (
            f"has another file {file['position']} than was served"
            for file, sha256 in zip(files, sent.files, strict=False)
            if file["status"] == "stored" and file["sha256"] != sha256
        )


def _group(column: str, rows: Sequence[Row]) -> Mapping[Any, Sequence[Row]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return groups
