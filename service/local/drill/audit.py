"""Compare what the sender was promised with what is there: every row, every attempt, every byte."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from service.local.drill.files import check_files, read_objects
from service.local.drill.findings import Findings, Row
from service.local.drill.history import told, wrong
from service.local.drill.ledger import Injury, Ledger, Webhook


async def audit(ledger: Ledger, database_url: str, objects: Path) -> Findings:
    """Look at everything, past the service; needs a drained system."""
    emails, attempts, files, kept = await _read(
        database_url,
        "SELECT * FROM incoming_emails ORDER BY id",
        "SELECT * FROM attempts ORDER BY email_id, number",
        "SELECT * FROM attachments ORDER BY email_id, position",
        "SELECT id, raw_body FROM quarantined_webhooks ORDER BY id",
    )
    findings = Findings(broken=list(ledger.unexpected))
    _check_answers(findings, ledger)
    _check_rows(findings, ledger, emails)
    _check_quarantine(findings, ledger, kept)
    _check_ends(findings, ledger, emails, _by("email_id", attempts))
    stored = await asyncio.to_thread(read_objects, findings, objects)
    check_files(findings, ledger, emails, _by("email_id", files), stored)
    _measure(findings, ledger.injuries, emails)
    return findings


async def _read(database_url: str, *queries: str) -> list[Sequence[Row]]:
    """Run the queries on one and the same state of the database."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return [await connection.fetch(query) for query in queries]
    finally:
        await connection.close()


def _check_answers(findings: Findings, ledger: Ledger) -> None:
    """See that the drill proves anything: who takes nothing, loses nothing."""
    taken = ledger.count("ok")
    if not taken:
        findings.broken.append("no webhook was acknowledged, which proves nothing")
    elif not ledger.injuries and taken < len(ledger.webhooks):
        without = len(ledger.webhooks) - taken
        findings.broken.append(f"{without} webhooks were not acknowledged, without any fault")


def _check_rows(findings: Findings, ledger: Ledger, emails: Sequence[Row]) -> None:
    rows = _by("zendesk_ticket_id", emails)
    for ticket, mine in rows.items():
        webhook = ledger.webhooks.get(ticket)
        if webhook is None or webhook.is_garbage:
            findings.broken.append(f"ticket {ticket} is on record, and was never sent")
        elif any(email["raw_body"] != webhook.body for email in mine):
            findings.wrong_bytes.append(f"ticket {ticket} has another body than was sent")
        if len(mine) > 1:
            findings.doubled.append(f"ticket {ticket} is on record {len(mine)} times")
    for webhook in ledger.webhooks.values():
        if not webhook.is_garbage:
            mine = rows.get(webhook.ticket_id, [])
            _check_promise(findings, webhook, {email["id"] for email in mine})
            if webhook.outcome != "ok":
                findings.unacknowledged += len(mine)


def _check_quarantine(findings: Findings, ledger: Ledger, kept: Sequence[Row]) -> None:
    findings.quarantined = len(kept)
    rows = _by("raw_body", kept)
    sent = {webhook.body: webhook for webhook in ledger.webhooks.values()}
    for body, mine in rows.items():
        webhook = sent.get(body)
        if webhook is None:
            findings.broken.append(f"{body!r} is in quarantine, and was never sent")
        elif not webhook.is_garbage:
            findings.broken.append(f"ticket {webhook.ticket_id} is in quarantine, but could be read")
        if len(mine) > 1:
            findings.doubled.append(f"{body!r} is in quarantine {len(mine)} times")
    for webhook in ledger.webhooks.values():
        if webhook.is_garbage:
            mine = rows.get(webhook.body, [])
            _check_promise(findings, webhook, {row["id"] for row in mine})
            if webhook.outcome != "ok":
                findings.unacknowledged += len(mine)


def _check_promise(findings: Findings, webhook: Webhook, ids: set[int]) -> None:
    """Compare what the sender was told with the ids that this webhook has."""
    about = f"ticket {webhook.ticket_id} ({webhook.kind})"
    if len(webhook.numbers) > 1:
        findings.doubled.append(f"{about} was given the ids {sorted(webhook.numbers)}")
    if webhook.outcome == "ok" and not ids:
        findings.lost.append(f"{about} was acknowledged and is not there")
    elif not webhook.numbers <= ids:
        findings.broken.append(f"{about} was given the ids {sorted(webhook.numbers)}, it has {sorted(ids)}")


def _check_ends(
    findings: Findings, ledger: Ledger, emails: Sequence[Row], attempts: Mapping[int, Sequence[Row]]
) -> None:
    """See that each e-mail ended, as it had to, and by which attempts."""
    for email in emails:
        mine, status = attempts.get(email["id"], []), email["processing_status"]
        webhook = ledger.webhooks.get(email["zendesk_ticket_id"])
        findings.broken += [f"e-mail {email['id']}: {what}" for what in wrong(email, mine)]
        if webhook and status in {"completed", "failed"} and email["error_code"] != webhook.code:
            findings.broken.append(
                f"e-mail {email['id']} ({webhook.kind}) is {status}, {email['error_code'] or 'no error'}"
                f" ({email['processing_error']}); it had to end with {webhook.code or 'no error'};"
                f" its attempts: {', '.join(map(told, mine))}"
            )
        findings.emails[status] += 1
        if status == "failed":
            findings.failed[str(email["error_code"])] += 1
        findings.outcomes.update(str(attempt["outcome"]) for attempt in mine)


def _measure(findings: Findings, injuries: Sequence[Injury], emails: Sequence[Row]) -> None:
    """See how long each job took, and how long after each fault one came through that began after it."""
    spans = [
        (email["received_at"].timestamp(), email["completed_at"].timestamp())
        for email in emails
        if email["processing_status"] == "completed" and email["completed_at"]
    ]
    findings.longest_wait = max((end - start for start, end in spans), default=0)
    longest: dict[str, float] = defaultdict(float)
    for injury in injuries:
        over = injury.ended or injury.began
        after = [end - over for start, end in spans if start >= over]
        if injury.hurt and after:
            longest[injury.fault] = max(longest[injury.fault], min(after))
    findings.recoveries = longest


def _by(column: str, rows: Sequence[Row]) -> Mapping[Any, Sequence[Row]]:
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[column]].append(row)
    return found
