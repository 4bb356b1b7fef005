"""What Zendesk does not tell: webhooks that are withheld, and suspended e-mails; a search of the account has to find them."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from service.local.drill.ledger import Ledger, SentEmail
from service.local.drill.verdict import AuditResult
from service.local.stack import ROOT
from service.local.zendesk.mail import SUPPORT
from service.local.zendesk.stand_in import Zendesk

SUSPENDED, RECOVERED = 3, 2  # e-mails that are suspended, and those of them that reach a ticket later
# The export of events hides the last minute; a drill is too short for that.
HIDDEN_SECONDS = 0
_TICKET = 90_000
_CHANGES = ("deleted", "redacted", "private")
_COMMAND_SECONDS = 180

Row = Mapping[str, Any]


@dataclass
class Suspensions:
    """The suspended e-mails of a drill, by Zendesk's id: those still `held`, and the `subjects` of all."""

    zendesk: Zendesk
    held: list[int] = field(default_factory=list)
    subjects: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Suspend e-mails, before any worker asks for them."""
        for number in range(SUSPENDED):
            subject = f"Gewinn {number} <b>"
            suspended = self.zendesk.suspend(subject=subject, text=f"Sie haben {number} gewonnen")
            self.subjects[str(suspended)] = subject
            self.held.append(suspended)

    def recover(self, ledger: Ledger) -> None:
        """Let some of them reach a ticket each, without a webhook."""
        for number in range(min(RECOVERED, len(self.held))):
            ticket, suspended = str(_TICKET + number), self.held.pop()
            item: dict[str, Any] = dict(self.zendesk.state.listings.suspended[suspended])
            comment_id = self.zendesk.recover(suspended, ticket)
            ledger.add([self._email(ticket, comment_id, item)], [])

    def _email(self, ticket: str, comment_id: int, item: Mapping[str, Any]) -> SentEmail:
        (comment,) = (each for each in self.zendesk.state.comments[ticket] if each["id"] == comment_id)
        audit_id = int(str(comment["audit_id"]))
        return SentEmail(
            ticket_id=ticket,
            comment_id=str(comment_id),
            kind="recovered",
            record=json.dumps(comment, ensure_ascii=False).encode(),
            direction="inbound",
            subject=item["subject"],
            sender=(item["author"]["name"], item["author"]["email"]),
            to=[SUPPORT],
            cc=[],
            message_id=item["message_id"],
            text=item["content"],
            original=self.zendesk.state.originals[audit_id].read(),
        )


def change_in_zendesk(zendesk: Zendesk, ledger: Ledger) -> None:
    """Delete a ticket, redact a text and make a comment private, of e-mails that are kept: our copies have to stay."""
    whole = [sent for mine in ledger.emails.values() for sent in mine.values() if sent.kind == "whole"]
    for state, sent in zip(_CHANGES, whole, strict=False):
        if state == "deleted":
            zendesk.delete_ticket(sent.ticket_id)
        elif state == "redacted":
            zendesk.state.redact_text(int(sent.comment_id), sent.text.split()[1])
        else:
            zendesk.state.make_private(int(sent.comment_id))
        ledger.changed[(sent.ticket_id, sent.comment_id)] = state


async def search(variables: Mapping[str, str]) -> str | None:
    """Search the account as an operator would; return the command's output if it did not succeed."""
    code, said = await run_command(variables, "backfill")
    return None if code == 0 else f"holdfast backfill ended with {code}: {said}"


async def run_command(variables: Mapping[str, str], *words: str) -> tuple[int, str]:
    """Run `holdfast` as an operator would; return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", *words),
        env=variables,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_COMMAND_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        return -1, f"it did not end within {_COMMAND_SECONDS} s"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    return process.returncode or 0, output.decode(errors="replace").strip()


def audit_source(
    result: AuditResult,
    ledger: Ledger,
    suspensions: Suspensions,
    tables: Mapping[str, Sequence[Row]],
    stored: Mapping[str, int],
) -> None:
    """Check that a search found each e-mail that no webhook announced, once, and each suspended one."""
    _check_changes(result, ledger, tables)
    announced = {row["email_id"] for row in tables["announcements"]}
    listed = {(row["ticket_id"], row["comment_id"]) for row in tables["source_emails"]}
    for ticket, sent in ledger.emails.items():
        for comment in sent:
            if (ticket, comment) not in listed:
                result.lost.append(f"comment {comment} of ticket {ticket} is not among those Zendesk lists")
    for email in tables["incoming_emails"]:
        is_announced = email["raw_body"] is not None or email["id"] in announced
        if email["origin"] == "webhook" and not is_announced:
            result.broken.append(f"e-mail {email['id']} says that a webhook made it, and has none")
        result.unannounced += not is_announced
    _check_suspended(result, suspensions, tables["suspended_emails"], stored)


def _check_changes(result: AuditResult, ledger: Ledger, tables: Mapping[str, Sequence[Row]]) -> None:
    """Check that e-mails are marked by Zendesk's changes; the list of tickets tells no redaction."""
    if not all(row["leg"] == "events" for row in tables["sources"]):
        return
    for email in tables["incoming_emails"]:
        ticket, comment = email["zendesk_ticket_id"], email["comment_id"]
        state, sent = ledger.changed.get((ticket, comment)), ledger.expected(ticket, comment)
        if state is None and sent is not None and sent.kind == "redacted":
            continue  # marked as soon as a look-up or a search meets it
        if email["zendesk_state"] != state:
            result.broken.append(
                f"e-mail {email['id']} is marked as {email['zendesk_state']} in Zendesk, and not as {state}"
            )
        result.changed += state is not None


def _check_suspended(
    result: AuditResult, suspensions: Suspensions, rows: Sequence[Row], stored: Mapping[str, int]
) -> None:
    kept = {row["suspended_id"]: row for row in rows}
    for suspended, subject in suspensions.subjects.items():
        row = kept.pop(suspended, None)
        if row is None:  # one that was recovered before any worker asked is an e-mail alone
            if int(suspended) in suspensions.held:
                result.lost.append(f"suspended e-mail {suspended} is not there")
        elif row["subject"] != subject or stored.get(row["record_key"]) != row["record_size"]:
            result.wrong_bytes.append(f"suspended e-mail {suspended} differs from Zendesk's")
    result.broken += [f"suspended e-mail {suspended} was never suspended" for suspended in kept]
    result.suspended = len(rows)
