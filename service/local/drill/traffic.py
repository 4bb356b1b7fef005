"""Send numbered webhooks of every kind as Zendesk does: some late, some twice, repeated on errors."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from zlib import crc32

from aiohttp import ClientConnectorError, ClientError, ClientSession, TCPConnector

from service.local.drill.emails import SEVERAL, EmailMaker
from service.local.drill.ledger import Ledger, Webhook
from service.local.receiver import UNWANTED
from service.local.zendesk.sender import WebhookResponse, send, sign_headers
from service.local.zendesk.stand_in import Fault, Zendesk

# Webhooks about e-mails that Zendesk's API does not show: they list the files. The weight of each kind; with those of
# whole e-mails, a hundred.
_ALONE = {"letter": 8, "bare": 5, "flaky": 8, "large": 4, "gone": 3, "garbage": 3}
_WHOLE = {
    "whole": 27,
    "comment": 6,
    "follow-up": 5,
    "reply": 5,
    "agent": 5,
    "pair": 8,
    "event": 4,
    "dead": 4,
    "redacted": 3,
    "malware": 2,
}
_KINDS = {**_ALONE, **_WHOLE}
_FIRST_TICKET = 100_000
_WITHHELD = 0.05  # of the tickets of whole e-mails
_LARGE_BYTES = (1_200_000, 2_500_000)
_MOST_SMALL_BYTES = 24_000
_ACKNOWLEDGED_SECONDS = 60  # the longest wait for a webhook that must be acknowledged


@dataclass
class Traffic:
    """A stand-in Zendesk that sends through a router to several web processes.

    The webhooks of a ticket depend on the seed and the ticket alone, not on the outcome of others.
    """

    zendesk: Zendesk
    webs: Sequence[str]
    ledger: Ledger
    seed: int
    withholds: bool = False  # the webhooks of a share of the tickets are never sent

    def __post_init__(self) -> None:
        chance = self._chance("large")
        self._large = [chance.randbytes(chance.randint(*_LARGE_BYTES)) for _ in range(6)]

    async def run(self, number: int, rate: float, sent: Callable[[Webhook], None]) -> None:
        """Send `number` webhooks, `rate` a second; call `sent` with each that was acknowledged or given up."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with (
            ClientSession(connector=TCPConnector(limit=0, force_close=True)) as session,
            asyncio.TaskGroup() as group,
        ):
            index = 0
            while index < number:
                await asyncio.sleep(began + index / rate - loop.time())
                ticket = str(_FIRST_TICKET + index)
                chance = self._chance(ticket)
                kind = chance.choices([*_KINDS], [*_KINDS.values()])[0]
                webhooks = self._add(kind, ticket, chance, min(SEVERAL.get(kind, 1), number - index))
                index += len(webhooks)
                if (
                    self.withholds
                    and kind in _WHOLE
                    and self._chance(f"{ticket} withheld").random() < _WITHHELD
                ):
                    self._withhold(webhooks, sent)
                    continue
                for webhook in webhooks:
                    group.create_task(self._send_one(session, webhook, chance, sent))

    async def send_poison(self, kind: str, before: Callable[[str], object]) -> bool:
        """Send a letter that cannot be completed; return whether it was acknowledged.

        `before` is called with its ticket before the first request.
        """
        webhook = self._make(kind, _ticket_of(kind), self._chance(kind))
        webhook.code = "abandoned"
        before(webhook.ticket_id)
        return await self._send_until_acknowledged(webhook)

    async def send_unwanted(self, kind: str) -> bool:
        """Send a letter whose document the sync's receiver refuses; return whether it was acknowledged."""
        webhook = self._make(kind, _ticket_of(kind), self._chance(kind), subject=UNWANTED)
        webhook.sync_code = "document_refused"
        return await self._send_until_acknowledged(webhook)

    async def _send_until_acknowledged(self, webhook: Webhook) -> bool:
        chance = self._chance(f"{webhook.kind} on its way")
        headers = sign_headers(webhook.body, self.zendesk.secret)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ACKNOWLEDGED_SECONDS), ClientSession() as session:
                while webhook.outcome != "ok":
                    await self._send(session, webhook, headers, chance)
                    await asyncio.sleep(1)
        return webhook.outcome == "ok"

    def _add(self, kind: str, ticket: str, chance: Random, number: int) -> Sequence[Webhook]:
        """Add a ticket of a kind to the ledger, with at most so many webhooks; return these."""
        if kind in _ALONE:
            return [self._make(kind, ticket, chance)]
        emails, webhooks = EmailMaker(self.zendesk, kind, ticket, chance).make(number)
        self.ledger.add(emails, webhooks)
        return webhooks

    def _withhold(self, webhooks: Sequence[Webhook], sent: Callable[[Webhook], None]) -> None:
        for webhook in webhooks:
            webhook.outcome = "withheld"
            sent(webhook)

    async def _send_one(
        self, session: ClientSession, webhook: Webhook, chance: Random, sent: Callable[[Webhook], None]
    ) -> None:
        headers = sign_headers(webhook.body, self.zendesk.secret)
        is_late, is_doubled = chance.random() < 0.05, chance.random() < 0.04
        if is_late:  # later webhooks overtake it
            await asyncio.sleep(chance.uniform(0.5, 4))
        await self._send(session, webhook, headers, chance)
        if is_doubled:
            await asyncio.gather(*(self._send(session, webhook, headers, chance) for _ in range(2)))
        sent(webhook)

    def _chance(self, about: str) -> Random:
        return Random(f"{self.seed} {about}")  # noqa: S311 the same seed gives the same drill

    def _make(self, kind: str, ticket: str, chance: Random, **more: object) -> Webhook:
        contents = self._contents(kind, chance)
        urls = [
            self.zendesk.add_file(f"{ticket}-{position}.pdf", content, faults=_faults(kind, chance))
            for position, content in enumerate(contents)
        ]
        webhook = Webhook(
            ticket,
            kind,
            self._body(kind, ticket, urls, more),
            [hashlib.sha256(content).hexdigest() for content in contents],
            "not_found" if kind == "gone" else None,
        )
        self.ledger.add([], [webhook])
        return webhook

    def _body(self, kind: str, ticket: str, urls: Sequence[str], more: Mapping[str, object]) -> bytes:
        if kind == "garbage":  # an unescaped quotation mark in the subject
            return f'{{"ticket_id": "{ticket}", "subject": "the "big" one"}}'.encode()
        return json.dumps(self.zendesk.payload(ticket_id=ticket, attachments=urls, **more)).encode()

    def _contents(self, kind: str, chance: Random) -> list[bytes]:
        if kind in {"bare", "garbage"}:
            return []
        if kind == "large":
            return [chance.choice(self._large)]
        return [
            b"%PDF-1.7\n" + chance.randbytes(chance.randint(0, _MOST_SMALL_BYTES))
            for _ in range(chance.choice((1, 1, 1, 2, 5)))
        ]

    async def _send(
        self, session: ClientSession, webhook: Webhook, headers: dict[str, str], chance: Random
    ) -> None:
        webhook.sends += 1
        try:
            answer = await self._route(session, webhook.body, headers, chance)
        except (ClientError, TimeoutError, OSError):
            webhook.note("unknown")
            return
        if answer.status == 200:
            receipt = answer.json()
            webhook.note("ok", receipt.get("email_id") or receipt.get("quarantine_id"))
        elif 400 <= answer.status < 500:
            webhook.note("refused")
            self.ledger.unexpected.append(f"ticket {webhook.ticket_id} was refused with {answer.status}")
        else:
            webhook.note("unknown")
            if "Retry-After" not in answer.headers:
                self.ledger.unexpected.append(
                    f"ticket {webhook.ticket_id} got {answer.status} without Retry-After"
                )

    async def _route(
        self, session: ClientSession, body: bytes, headers: dict[str, str], chance: Random
    ) -> WebhookResponse:
        """Send to a random web process, or to the next if that one refuses connections, as a router does."""
        webs = chance.sample(self.webs, len(self.webs))
        for web in webs:
            try:
                return await send(session, f"{web}/webhooks/zendesk", body, headers, retries=True)
            except ClientConnectorError:
                if web == webs[-1]:
                    raise
        raise AssertionError("no web process")


def _faults(kind: str, chance: Random) -> list[Fault]:
    """Return the faults of the first downloads of a file of this kind."""
    if kind == "gone":
        return [Fault(status=404)] * 1000
    if kind != "flaky":
        return []
    temporary = (
        Fault(status=503, headers={"Retry-After": "1"}),
        Fault(status=429, headers={"Retry-After": "2"}, at_cdn=True),
        Fault(reset_after=512),
        Fault(bytes_per_second=8_000),
    )
    return [chance.choice(temporary)]


def _ticket_of(kind: str) -> str:
    """Return a ticket for the one letter of a kind: Zendesk's tickets are numbers."""
    return str(9_000_000_000 + crc32(kind.encode()))
