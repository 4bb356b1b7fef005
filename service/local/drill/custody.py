"""Hold, erase and purge e-mails while everything else is broken: what must be gone, and what must not."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import asyncpg
from aiohttp import ClientError

from service.local.drill.emails import EmailMaker
from service.local.drill.installation import POSTGRES_AWAY, Installation
from service.local.drill.ledger import Ledger, SentEmail, Webhook
from service.local.drill.source import run_command
from service.local.drill.verdict import AuditResult, Row

HELD, ERASED, PURGED = "custody.held", "custody.erased", "custody.purged"
CUSTODY = (HELD, ERASED, PURGED)
_TICKETS = {HELD: "97001", ERASED: "97002", PURGED: "97003"}
_REASON = "A drill asked for it."
_HOLD, _RULE = "drill", "drill"
_FORBIDDEN = 3  # the exit code of an erasure that a hold forbids
# Other faults may stop an operator's command: it is repeated for so long.
_SECONDS, _PAUSE_SECONDS = 300, 1


@dataclass
class Custody:
    """E-mails of tickets of their own: one is held, one is erased, one is purged."""

    installation: Installation
    ledger: Ledger
    seed: int
    gone: set[str] = field(default_factory=set)  # tickets of which nothing may be left

    async def do(self, name: str) -> bool:
        """Let an e-mail come in, and hold, erase or purge it; return whether that is so."""
        ticket = _TICKETS[name]
        emails, webhooks = self._make(name, ticket)
        if name == HELD:
            self.ledger.add(emails, webhooks)
        if name == ERASED:
            self._killer(ticket).write_text("kill")
        if not await self._repeat(lambda: self._send(webhooks[0])):
            self.ledger.unexpected.append(f"{name}: the webhook of ticket {ticket} was not accepted")
            return False
        act = {HELD: self._hold, ERASED: self._erase, PURGED: self._purge}[name]
        is_done = await act(ticket, webhooks[0])
        if not is_done:
            self.ledger.unexpected.append(f"{name} did not succeed")
        return is_done

    def _make(self, name: str, ticket: str) -> tuple[Sequence[SentEmail], Sequence[Webhook]]:
        chance = Random(f"{self.seed} {name}")  # noqa: S311 the same seed gives the same drill
        return EmailMaker(self.installation.zendesk, "whole", ticket, chance).make(1)

    async def _send(self, webhook: Webhook) -> bool:
        answer = await self.installation.zendesk.send(
            f"{self.installation.webs[0]}/webhooks/zendesk", webhook.body
        )
        webhook.sends += 1
        if answer.status == 200:
            webhook.note("ok", answer.json().get("email_id"))
        return answer.status == 200

    async def _hold(self, ticket: str, _: Webhook) -> bool:
        """Hold a ticket; a rule makes it due, and a person asks for its erasure: both have to leave it."""
        is_held = "SELECT 1 FROM holds WHERE name = $1"
        create = ("holds", "create", _HOLD, "--ticket", ticket, "--reason", _REASON)
        return (
            await self._ensure(is_held, _HOLD, *create)
            and await self._ensure(_HAS_RULE, "held", *_rule("held", ticket))
            and await self._repeat(lambda: self._ends(_FORBIDDEN, *_erasure(ticket)))
        )

    async def _erase(self, ticket: str, webhook: Webhook) -> bool:
        """Erase a ticket, and announce its e-mail once more: it is accepted, and nothing returns.

        A worker was killed after it had stored an object of it, and before any row named that.
        """
        self.gone.add(ticket)
        is_stored = await self._repeat(lambda: self._is_so(_IS_NOTED, ticket))
        self._killer(ticket).unlink()
        return (
            is_stored
            and await self._ensure(_IS_GONE, ticket, *_erasure(ticket))
            and await self._repeat(lambda: self._send(webhook))
        )

    def _killer(self, ticket: str) -> Path:
        """Return the file that kills each worker which has stored an object of the ticket."""
        return self.installation.fault_points / f"after_object@{ticket}"

    async def _purge(self, ticket: str, _: Webhook) -> bool:
        """Purge a ticket by a rule, once its e-mail is finished."""
        self.gone.add(ticket)
        return await self._ensure(_HAS_RULE, _RULE, *_rule(_RULE, ticket)) and await self._ensure(
            _IS_GONE, ticket, "purge", "--yes"
        )

    async def _ensure(self, query: str, value: str, *words: str) -> bool:
        """Repeat a command until its change is there: one that was interrupted may have done it."""

        async def attempt() -> bool:
            await run_command(self.installation.variables, *words)
            return await self._is_so(query, value)

        return await self._repeat(attempt)

    async def _ends(self, code: int, *words: str) -> bool:
        return (await run_command(self.installation.variables, *words))[0] == code

    async def _is_so(self, query: str, value: str) -> bool:
        connection = await asyncpg.connect(self.installation.database_url, timeout=5)
        try:
            return await connection.fetchval(query, value) is not None
        finally:
            await connection.close()

    async def _repeat(self, attempt: Callable[[], Awaitable[bool]]) -> bool:
        """Repeat an attempt until it succeeds, or the time is over."""
        try:
            async with asyncio.timeout(_SECONDS):
                while not await _succeeds(attempt):  # noqa: ASYNC110 neither Postgres nor a command has an event for it
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            return False
        return True


_HAS_RULE = "SELECT 1 FROM retention_rules WHERE name = $1"
_IS_NOTED = """
SELECT 1 FROM incoming_emails JOIN loose_objects ON email_id = incoming_emails.id WHERE zendesk_ticket_id = $1
"""
_IS_GONE = """
SELECT 1 WHERE NOT EXISTS (SELECT FROM incoming_emails WHERE zendesk_ticket_id = $1)
    AND NOT EXISTS (SELECT FROM erasures WHERE status = 'running')
"""


def _rule(name: str, ticket: str) -> tuple[str, ...]:
    return ("retention", "add", name, "--days", "0", "--ticket", ticket, "--yes")


def _erasure(ticket: str) -> tuple[str, ...]:
    return ("erase", "--ticket", ticket, "--reason", _REASON, "--yes")


async def _succeeds(attempt: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await attempt()
    except (ClientError, *POSTGRES_AWAY):
        return False  # a server is still starting


async def verify_evidence(installation: Installation) -> str | None:
    """Compare everything on record with the evidence log; return the command's output if they do not agree."""
    code, said = await run_command(installation.variables, "evidence", "verify")
    return None if code == 0 else f"holdfast evidence verify ended with {code}: {said}"


def audit_custody(result: AuditResult, custody: Custody, tables: Mapping[str, Sequence[Row]]) -> None:
    """Check that nothing is left of erased or purged e-mails; that all else is there, other checks tell."""
    removed = {row["ticket_id"] for row in tables["removed_emails"]}
    for table in ("incoming_emails", "source_emails"):
        column = "zendesk_ticket_id" if table == "incoming_emails" else "ticket_id"
        result.broken += [
            f"ticket {row[column]} is in {table}, and was erased or purged"
            for row in tables[table]
            if row[column] in custody.gone
        ]
    if _TICKETS[ERASED] in removed:
        result.broken.append("the number of an erased ticket is still on record")
    for receipt in tables["receipts"]:
        if receipt["status"] != "done":
            result.broken.append(f"receipt {receipt['id']} is {receipt['status']}")
    result.removed = len(tables["removed_emails"])
