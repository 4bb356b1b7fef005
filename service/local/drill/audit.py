"""Compare what the sender was promised with what is there: every row, every attempt, every byte."""

import asyncio
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from service.local.drill.ledger import Injury, Ledger, Webhook

# A temporary file may be as old as the longest upload; all of those here were over long ago.
_GRACE_SECONDS = 30

Row = Mapping[str, object]


@dataclass
class Findings:
    """What is wrong, by what it means, and figures to show."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong_bytes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # any other invariant
    emails: Counter[str] = field(default_factory=Counter)  # by status
    failed: Counter[str] = field(default_factory=Counter)  # by code
    outcomes: Counter[str] = field(default_factory=Counter)  # of attempts
    quarantined: int = 0
    unacknowledged: int = 0  # on record though nobody was told so
    files: int = 0
    objects: int = 0
    object_bytes: int = 0
    longest_wait: float = 0  # seconds from the webhook to the end of its job
    recoveries: Mapping[str, float] = field(default_factory=dict)  # the longest of each fault, in seconds

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong_bytes or self.broken)


async def audit(ledger: Ledger, database_url: str, objects: Path) -> Findings:
    """Look at everything, past the service; needs a drained system."""
    connection = await asyncpg.connect(database_url)
    try:
        emails = await connection.fetch("SELECT * FROM incoming_emails ORDER BY id")
        attempts = await connection.fetch("SELECT * FROM attempts ORDER BY email_id, number")
        files = await connection.fetch("SELECT * FROM attachments ORDER BY email_id, position")
        kept = await connection.fetch("SELECT id, raw_body FROM quarantined_webhooks")
    finally:
        await connection.close()
    findings = Findings(broken=list(ledger.unexpected))
    _check_rows(findings, ledger, emails)
    _check_quarantine(findings, ledger, kept)
    _check_attempts(findings, emails, _by_email(attempts))
    stored = await asyncio.to_thread(_read_objects, findings, objects)
    _check_files(findings, ledger, emails, _by_email(files), stored)
    _measure(findings, ledger.injuries, emails)
    return findings


def _check_rows(findings: Findings, ledger: Ledger, emails: Sequence[Row]) -> None:
    rows = Counter(email["zendesk_ticket_id"] for email in emails)
    findings.doubled += [f"ticket {ticket} is on record {n} times" for ticket, n in rows.items() if n > 1]
    findings.broken += [f"ticket {t} was never sent" for t in rows if t not in ledger.webhooks]
    for webhook in _emails(ledger):
        if webhook.outcome == "ok" and not rows[webhook.ticket_id]:
            findings.lost.append(
                f"ticket {webhook.ticket_id} ({webhook.kind}) was acknowledged and is not there"
            )
        if webhook.outcome != "ok":
            findings.unacknowledged += rows[webhook.ticket_id]
        if len(webhook.numbers) > 1:
            findings.doubled.append(f"ticket {webhook.ticket_id} was given the ids {sorted(webhook.numbers)}")


def _check_quarantine(findings: Findings, ledger: Ledger, kept: Sequence[Row]) -> None:
    findings.quarantined = len(kept)
    bodies = Counter(bytes(row["raw_body"]) for row in kept)  # type: ignore[call-overload]
    findings.doubled += [f"{body!r} is in quarantine {n} times" for body, n in bodies.items() if n > 1]
    for webhook in ledger.webhooks.values():
        there = any(f'"{webhook.ticket_id}"'.encode() in body for body in bodies)
        if webhook.kind == "garbage" and webhook.outcome == "ok" and not there:
            findings.lost.append(f"ticket {webhook.ticket_id} is not in quarantine")
        if webhook.kind != "garbage" and there:
            findings.broken.append(f"ticket {webhook.ticket_id} is in quarantine, but could be read")


def _check_attempts(
    findings: Findings, emails: Sequence[Row], attempts: Mapping[object, Sequence[Row]]
) -> None:
    for email in emails:
        findings.broken += [
            f"e-mail {email['id']}: {wrong}" for wrong in _wrong(email, attempts[email["id"]])
        ]
        findings.emails[str(email["processing_status"])] += 1
        if email["processing_status"] == "failed":
            findings.failed[str(email["error_code"])] += 1
        findings.outcomes.update(str(attempt["outcome"]) for attempt in attempts[email["id"]])


def _wrong(email: Row, attempts: Sequence[Row]) -> Iterator[str]:
    """Name each invariant of the state machine that this e-mail breaks."""
    status, outcomes = email["processing_status"], [attempt["outcome"] for attempt in attempts]
    if status not in {"completed", "failed"}:
        yield f"it ended as {status}, lease until {email['lease_until']}"
        return
    times = [email["received_at"], email["started_at"], email["completed_at"]]
    if None in times or times != sorted(times):  # type: ignore[type-var]
        yield f"received, started, completed at {times}"
    if status == "failed" and not (email["error_code"] and email["processing_error"]):
        yield "it failed without a reason"
    if [attempt["number"] for attempt in attempts] != list(range(1, len(attempts) + 1)):
        yield f"its attempts are numbered {[attempt['number'] for attempt in attempts]}"
    if email["attempt_number"] != len(attempts) or None in outcomes:
        yield f"attempt_number is {email['attempt_number']}, the attempts ended as {outcomes}"
    given_back = sum(outcome in {"released", "abandoned"} for outcome in outcomes)
    spent = given_back - (status == "failed" and outcomes[-1:] == ["abandoned"])
    if email["retry_count"] != spent:
        yield f"retry_count is {email['retry_count']}, the attempts ended as {outcomes}"
    if (status == "completed") != (outcomes[-1:] == ["completed"]):
        yield f"it is {status}, the attempts ended as {outcomes}"


def _read_objects(findings: Findings, objects: Path) -> dict[str, int]:
    """Hash every object; return their sizes by key."""
    stored = {}
    for path in sorted(objects.rglob("*")):
        if not path.is_file():
            continue
        key = str(path.relative_to(objects))
        if not key.startswith("sha256/"):
            if time.time() - path.stat().st_mtime > _GRACE_SECONDS:
                findings.broken.append(f"{key} was left behind")
            continue
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != key.removeprefix("sha256/").replace("/", ""):
            findings.wrong_bytes.append(f"{key} is not what its name says")
        stored[key] = len(content)
    findings.objects, findings.object_bytes = len(stored), sum(stored.values())
    return stored


def _check_files(
    findings: Findings,
    ledger: Ledger,
    emails: Sequence[Row],
    files: Mapping[object, Sequence[Row]],
    stored: Mapping[str, int],
) -> None:
    used = set()
    for email in emails:
        webhook = ledger.webhooks.get(str(email["zendesk_ticket_id"]))
        if webhook is None:
            continue
        name = f"e-mail {email['id']} ({webhook.kind})"
        mine = files[email["id"]]
        used |= {file["object_key"] for file in mine}
        if email["error_code"] != webhook.code:
            findings.broken.append(f"{name} ended with {email['error_code']}: {email['processing_error']}")
        if webhook.code is None:
            findings.files += len(mine)
            _compare(findings, name, webhook, mine, stored)
    findings.broken += [f"{key} belongs to no e-mail" for key in stored if key not in used]


def _compare(
    findings: Findings, name: str, webhook: Webhook, files: Sequence[Row], stored: Mapping[str, int]
) -> None:
    missing = [file["position"] for file in files if stored.get(str(file["object_key"])) != file["size"]]
    if missing or len(files) != len(webhook.files):
        findings.lost.append(
            f"{name} has {len(files)} of {len(webhook.files)} files, no object for {missing}"
        )
    if [file["sha256"] for file in files] != list(webhook.files):
        findings.wrong_bytes.append(f"{name} has other files than were served")


def _measure(findings: Findings, injuries: Sequence[Injury], emails: Sequence[Row]) -> None:
    """See how long each job took, and how long after each fault one came through that began after it."""
    spans = []
    for email in emails:
        received, completed = email["received_at"], email["completed_at"]
        if completed and email["processing_status"] == "completed":
            spans.append((received.timestamp(), completed.timestamp()))  # type: ignore[attr-defined]
    findings.longest_wait = max((end - start for start, end in spans), default=0)
    longest: dict[str, float] = {}
    for injury in injuries:
        over = injury.ended or injury.began
        after = [end - over for start, end in spans if start >= over]
        if after:
            longest[injury.fault] = max(longest.get(injury.fault, 0), min(after))
    findings.recoveries = longest


def _emails(ledger: Ledger) -> Iterator[Webhook]:
    return (webhook for webhook in ledger.webhooks.values() if webhook.kind != "garbage")


def _by_email(rows: Sequence[Row]) -> Mapping[object, Sequence[Row]]:
    found: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["email_id"]].append(row)
    return found
