"""Compare the sender's ledger with every row, attempt and object."""

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from service.local.drill.ledger import Ledger, Webhook
from service.local.drill.verdict import AuditResult, Row, recoveries

# Younger temporary files may belong to an upload; a drained system has had none for longer.
_YOUNG_SECONDS = 30
# The outcome of the last attempt, by the state of the job; earlier attempts gave the job back.
_LAST_OUTCOMES = {"completed": {"completed"}, "failed": {"failed", "abandoned"}}
_GIVEN_BACK = {"released", "abandoned", "handed_back"}


async def audit(ledger: Ledger, database_url: str, objects: Path) -> AuditResult:
    """Audit intake and jobs past the service; the system must be drained."""
    emails, attempts, files, quarantined = await _read(
        database_url,
        "SELECT * FROM incoming_emails ORDER BY id",
        "SELECT * FROM attempts ORDER BY email_id, number",
        "SELECT * FROM attachments ORDER BY email_id, position",
        "SELECT id, raw_body FROM quarantined_webhooks ORDER BY id",
    )
    result = AuditResult(broken=list(ledger.unexpected))
    _check_acknowledgements(result, ledger)
    _check_emails(result, ledger, emails)
    _check_quarantine(result, ledger, quarantined)
    _check_ends(result, ledger, emails, _group("email_id", attempts))
    stored = await asyncio.to_thread(_read_objects, result, objects)
    _check_files(result, ledger, emails, _group("email_id", files), stored)
    spans = [
        (email["received_at"].timestamp(), email["completed_at"].timestamp())
        for email in emails
        if email["processing_status"] == "completed" and email["completed_at"]
    ]
    result.longest_wait = max((end - start for start, end in spans), default=0)
    result.recoveries = recoveries(ledger.injections, spans)
    return result


async def _read(database_url: str, *queries: str) -> list[Sequence[Row]]:
    """Run the queries on one snapshot of the database."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return [await connection.fetch(query) for query in queries]
    finally:
        await connection.close()


def _check_acknowledgements(result: AuditResult, ledger: Ledger) -> None:
    """Report a drill that proves nothing: a system that acknowledges nothing loses nothing."""
    acknowledged = ledger.count("ok")
    if not acknowledged:
        result.broken.append("no webhook was acknowledged, so the drill proves nothing")
    elif not ledger.injections and acknowledged < len(ledger.webhooks):
        missing = len(ledger.webhooks) - acknowledged
        result.broken.append(f"{missing} webhooks were not acknowledged, without any fault")


def _check_emails(result: AuditResult, ledger: Ledger, emails: Sequence[Row]) -> None:
    rows = _group("zendesk_ticket_id", emails)
    for ticket, mine in rows.items():
        webhook = ledger.webhooks.get(ticket)
        if webhook is None or webhook.is_garbage:
            result.broken.append(f"ticket {ticket} has an e-mail, and none was sent")
        elif any(email["raw_body"] != webhook.body for email in mine):
            result.wrong_bytes.append(f"ticket {ticket} has another body than was sent")
        if len(mine) > 1:
            result.doubled.append(f"ticket {ticket} has {len(mine)} e-mails")
    for webhook in ledger.webhooks.values():
        if not webhook.is_garbage:
            _check_promise(result, webhook, rows.get(webhook.ticket_id, []))


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


def _check_promise(result: AuditResult, webhook: Webhook, rows: Sequence[Row]) -> None:
    """Compare the ids that the sender received with the ids of the webhook's rows."""
    about, ids = f"ticket {webhook.ticket_id} ({webhook.kind})", {row["id"] for row in rows}
    if len(webhook.ids) > 1:
        result.doubled.append(f"{about} was given the ids {sorted(webhook.ids)}")
    if webhook.outcome == "ok" and not ids:
        result.lost.append(f"{about} was acknowledged and is not there")
    elif not webhook.ids <= ids:
        result.broken.append(f"{about} was given the ids {sorted(webhook.ids)}, it has {sorted(ids)}")
    if webhook.outcome != "ok":
        result.unacknowledged += len(rows)


def _check_ends(
    result: AuditResult, ledger: Ledger, emails: Sequence[Row], attempts: Mapping[int, Sequence[Row]]
) -> None:
    """Check how each job ended, and by which attempts."""
    for email in emails:
        mine, status = attempts.get(email["id"], []), email["processing_status"]
        webhook = ledger.webhooks.get(email["zendesk_ticket_id"])
        result.broken += [f"e-mail {email['id']}: {problem}" for problem in _job_problems(email, mine)]
        if webhook and status in {"completed", "failed"} and email["error_code"] != webhook.code:
            result.broken.append(
                f"e-mail {email['id']} ({webhook.kind}) is {status}, {email['error_code'] or 'no error'}"
                f" ({email['processing_error']}); it had to end with {webhook.code or 'no error'};"
                f" its attempts: {', '.join(map(_describe_attempt, mine))}"
            )
        result.emails[status] += 1
        if status == "failed":
            result.failed[str(email["error_code"])] += 1
        result.outcomes.update(str(attempt["outcome"]) for attempt in mine)


def _job_problems(email: Row, attempts: Sequence[Row]) -> Iterator[str]:
    """Describe each invariant of the job's state machine that an e-mail of a drained system breaks."""
    status, lease = email["processing_status"], email["lease_until"]
    if status not in _LAST_OUTCOMES:
        yield f"it is {status} in the end, lease until {lease}"
        return
    outcomes = [attempt["outcome"] for attempt in attempts]
    if not _LAST_OUTCOMES[status].intersection(outcomes[-1:]):
        yield f"it is {status}, its attempts ended as {outcomes}"
    if not _GIVEN_BACK.issuperset(outcomes[:-1]):
        yield f"another attempt followed its end, its attempts ended as {outcomes}"
    numbers = [attempt["number"] for attempt in attempts]
    if numbers != list(range(1, email["attempt_number"] + 1)):
        yield f"attempt_number is {email['attempt_number']}, its attempts are numbered {numbers}"
    if email["retry_count"] != outcomes[:-1].count("released"):
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
        if not key.startswith("sha256/"):
            if time.time() - path.stat().st_mtime > _YOUNG_SECONDS:
                result.broken.append(f"{key} was left behind")
            continue
        content = path.read_bytes()
        if key != _key(hashlib.sha256(content).hexdigest()):
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
    """Check the files of each e-mail that ended, and find objects without an e-mail."""
    used = {file["object_key"] for mine in files.values() for file in mine}
    result.broken += [f"{key} belongs to no e-mail" for key in stored if key not in used]
    for email in emails:
        webhook = ledger.webhooks.get(email["zendesk_ticket_id"])
        if webhook is None or email["processing_status"] not in {"completed", "failed"}:
            continue  # other checks report these
        name, mine = f"e-mail {email['id']} ({webhook.kind})", files.get(email["id"], [])
        result.lost += [f"{name} {problem}" for problem in _file_problems(webhook, mine, stored)]
        if webhook.code is None:
            result.files += len(mine)
            result.wrong_bytes += [
                f"{name} has another file {file['position']} than was served"
                for file, sha256 in zip(mine, webhook.files, strict=False)
                if file["status"] == "stored" and file["sha256"] != sha256
            ]


def _file_problems(webhook: Webhook, files: Sequence[Row], stored: Mapping[str, int]) -> Iterator[str]:
    if len(files) != len(webhook.files):
        yield f"has {len(files)} of {len(webhook.files)} files"
    for file in files:
        key, about = file["object_key"], f"has no object for file {file['position']}"
        if webhook.code is None and file["status"] != "stored":
            yield f"{about}: it is {file['status']}, {file['error_code']}"
        elif file["status"] == "stored" and (key != _key(file["sha256"] or "") or key not in stored):
            yield f"{about}: {key}"
        elif file["status"] == "stored" and stored[key] != file["size"]:
            yield f"{about}: {key} has {stored[key]} bytes, not {file['size']}"


def _key(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256[2:]}"


def _group(column: str, rows: Sequence[Row]) -> Mapping[Any, Sequence[Row]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return groups
