"""Changes at Zendesk to the webhook and the trigger of `holdfast connect`, while e-mails come in that only they announce."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import asyncpg

from service.local.drill.emails import EmailMaker
from service.local.drill.installation import POSTGRES_AWAY, Installation
from service.local.drill.ledger import Ledger, Webhook
from service.local.drill.source import run_command
from service.local.drill.verdict import AuditResult, Row
from service.local.zendesk.rule_state import Invocation, RuleState
from service.local.zendesk.stand_in import Fault
from service.zendesk.rules import REPAIRABLE

# Each change, and the code of the drift that has to tell it.
CHANGES: Mapping[str, tuple[Callable[[RuleState], None], str]] = {
    "connection.deactivated": (RuleState.deactivate_webhooks, "webhook_inactive"),
    "connection.mistyped": (RuleState.break_bodies, "trigger_changed"),
    "connection.narrowed": (RuleState.narrow_conditions, "trigger_changed"),
    "connection.removed": (lambda rules: rules.triggers.clear(), "trigger_gone"),
}
# After these, a webhook still comes, without the number of a comment.
_ANNOUNCED = {"connection.mistyped"}
_FIRST_TICKET = 95_000
_KINDS = ("whole", "reply", "follow-up")  # the e-mails that come in after each change
# Zendesk loses each so many-th webhook, whatever is changed.
_WITHHELD_EACH = 4
# Other faults may stop an operator's command: it is repeated for so long.
_SECONDS, _PAUSE_SECONDS = 120, 2


@dataclass
class Connection:
    """The connection of a drill, and the e-mails that its trigger announces: comments of other tickets fire none."""

    installation: Installation
    ledger: Ledger
    seed: int
    tickets: set[str] = field(default_factory=set)
    is_made: bool = False

    def begin(self) -> None:
        """Let no comment of other tickets fire a trigger."""
        self._rules.tickets, self._rules.withhold_each = self.tickets, _WITHHELD_EACH

    async def connect(self) -> None:
        """Connect as an operator does; the first attempt ends in the middle."""
        faults = self.installation.zendesk.state.rule_faults
        faults["make trigger"] = Fault(status=503)
        await self._command("connect", "--url", self.installation.webs[0], "--yes", "--no-wait")
        faults.clear()
        self.is_made = await self._repeat(
            lambda: self._command("connect", "--url", self.installation.webs[0], "--yes", "--no-wait")
        )
        self._send("whole")

    async def change(self, name: str) -> bool:
        """Change something at Zendesk, let e-mails come in, and repair it once it is told; return whether all is so."""
        if not self.is_made:
            return False
        harm, code = CHANGES[name]
        await self.installation.zendesk.delivered()
        delivered = len(self._rules.invocations)
        harm(self._rules)
        for kind in _KINDS:
            self._send(kind)
        is_told = await self._repeat(lambda: self._is_told(code))
        await self.installation.zendesk.delivered()
        if (len(self._rules.invocations) > delivered) is not (name in _ANNOUNCED):
            self.ledger.unexpected.append(f"{name}: the number of webhooks shows no such change")
        if not is_told:
            self.ledger.unexpected.append(f"{name}: nobody was told of the drift {code}")
        is_repaired = await self._repeat(
            lambda: self._command("connect", "--repair", "--yes", "--no-wait")
        ) and await self._repeat(self._is_clear)
        if not is_repaired:
            self.ledger.unexpected.append(f"{name}: `holdfast connect --repair` did not put it back")
        self._send("whole")
        return is_told and is_repaired

    async def end(self) -> None:
        """Enter the webhooks of the trigger into the ledger, once all are delivered or given up."""
        await self.installation.zendesk.delivered()
        for number, invocation in enumerate(self._rules.invocations):
            self.ledger.webhooks[f"trigger {number}"] = self._webhook(invocation)

    @property
    def _rules(self) -> RuleState:
        return self.installation.zendesk.state.rules

    def _send(self, kind: str) -> None:
        """Let an e-mail reach a ticket of its own."""
        ticket = str(_FIRST_TICKET + len(self.tickets))
        self.tickets.add(ticket)
        chance = Random(f"{self.seed} {ticket}")  # noqa: S311 the same seed gives the same drill
        emails, _ = EmailMaker(self.installation.zendesk, kind, ticket, chance).make(1)
        self.ledger.add(emails, [])

    def _webhook(self, invocation: Invocation) -> Webhook:
        told = json.loads(invocation.body)
        email = self.ledger.emails[told["ticket_id"]].get(told["comment_id"])
        webhook = Webhook(told["ticket_id"], "trigger", invocation.body.encode(), email=email, sends=1)
        if invocation.answer.status == 200:
            webhook.note("ok", invocation.answer.json().get("email_id"))
        return webhook

    async def _command(self, *words: str) -> bool:
        code, _ = await run_command(self.installation.variables, *words)
        return code == 0

    async def _is_told(self, code: str) -> bool:
        """Say whether `holdfast check` tells a drift and records it: the alert reads the record."""
        _, said = await run_command(self.installation.variables, "check")
        return any(each["code"] == code and each["text"] in said for each in await self._drift())

    async def _is_clear(self) -> bool:
        return not any(each["code"] in REPAIRABLE for each in await self._drift())

    async def _drift(self) -> Sequence[Mapping[str, Any]]:
        connection = await asyncpg.connect(self.installation.database_url, timeout=5)
        try:
            found = await connection.fetchval("SELECT drift FROM connections")
        finally:
            await connection.close()
        return json.loads(found) if found else ()

    async def _repeat(self, attempt: Callable[[], Awaitable[bool]]) -> bool:
        """Repeat an attempt until it succeeds, or the time is over."""
        try:
            async with asyncio.timeout(_SECONDS):
                while not await _succeeds(attempt):  # noqa: ASYNC110 Zendesk and Postgres have no event for it
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            return False
        return True


async def _succeeds(attempt: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await attempt()
    except POSTGRES_AWAY:
        return False  # Postgres is still starting


def audit_connection(
    result: AuditResult, connection: Connection, tables: Mapping[str, Sequence[Row]]
) -> None:
    """Check that the connection is as it was made, and that each e-mail of the trigger's tickets is completed."""
    if not connection.is_made:
        result.broken.append("the connection to Zendesk could not be made")
    for row in tables["connections"]:
        left = [each["code"] for each in row["drift"] if each["code"] in REPAIRABLE]
        result.broken += [f"the drift {code} is still recorded" for code in left]
    announced = {row["email_id"] for row in tables["announcements"]}
    for email in tables["incoming_emails"]:
        ticket, comment = email["zendesk_ticket_id"], email["comment_id"]
        if ticket not in connection.tickets:
            continue
        if email["processing_status"] != "completed":
            result.lost.append(f"comment {comment} of ticket {ticket} is {email['processing_status']}")
        result.unheard += email["raw_body"] is None and email["id"] not in announced
