"""Numbered webhooks of every kind, sent as Zendesk sends them: late, twice, and again if they were not taken."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from aiohttp import ClientConnectorError, ClientError, ClientSession, TCPConnector

from service.local.drill.ledger import Ledger, Webhook
from service.local.sender import Answer, send, sign_headers
from service.local.zendesk import Fault, Zendesk

# How often each kind comes, out of a hundred.
_KINDS = {"letter": 50, "bare": 14, "comment": 12, "flaky": 12, "large": 4, "gone": 4, "garbage": 4}
_FIRST_TICKET = 100_000
_LARGE_BYTES = (1_200_000, 2_500_000)
_MOST_SMALL_BYTES = 24_000


@dataclass
class Traffic:
    """A stand-in Zendesk that sends to several web processes, as a router in front of them would."""

    zendesk: Zendesk
    webs: Sequence[str]
    ledger: Ledger
    chance: Random
    sending: int = 0  # webhooks under way, repetitions included

    def __post_init__(self) -> None:
        self._large = [self.chance.randbytes(self.chance.randint(*_LARGE_BYTES)) for _ in range(6)]

    async def run(self, rate: float, seconds: float, sent: Callable[[], None]) -> None:
        """Send `rate` webhooks a second for so long, whatever happens to them; `sent` hears of each that is over."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with (
            ClientSession(connector=TCPConnector(limit=0, force_close=True)) as session,
            asyncio.TaskGroup() as group,
        ):
            for number in range(int(rate * seconds)):
                await asyncio.sleep(began + number / rate - loop.time())
                kind = self.chance.choices([*_KINDS], [*_KINDS.values()])[0]
                group.create_task(self._send_somehow(session, kind, sent))

    async def send_one(self, kind: str, before: Callable[[Webhook], object]) -> None:
        """Make one webhook, let `before` see it, and send it."""
        webhook, body = self._make(kind)
        before(webhook)
        async with ClientSession() as session:
            await self._send(session, webhook, body, sign_headers(body, self.zendesk.secret))

    async def _send_somehow(self, session: ClientSession, kind: str, sent: Callable[[], None]) -> None:
        webhook, body = self._make(kind)
        headers = sign_headers(body, self.zendesk.secret)
        if self.chance.random() < 0.05:  # it overtakes nobody, others overtake it
            await asyncio.sleep(self.chance.uniform(0.5, 4))
        await self._send(session, webhook, body, headers)
        if self.chance.random() < 0.04:
            await asyncio.gather(*(self._send(session, webhook, body, headers) for _ in range(2)))
        sent()

    def _make(self, kind: str) -> tuple[Webhook, bytes]:
        ticket = str(_FIRST_TICKET + len(self.ledger.webhooks))
        contents = self._contents(kind)
        urls = [
            self.zendesk.add_file(f"{ticket}-{place}.pdf", content, faults=self._faults(kind))
            for place, content in enumerate(contents)
        ]
        webhook = Webhook(ticket, kind, [hashlib.sha256(content).hexdigest() for content in contents])
        self.ledger.webhooks[ticket] = webhook
        if kind == "garbage":  # as a quotation mark in a subject makes it
            return webhook, f'{{"ticket_id": "{ticket}", "subject": "the "big" one"}}'.encode()
        if kind == "gone":
            webhook.code = "not_found"
        if kind.startswith("poison"):
            webhook.code = "abandoned"
        if kind == "comment":
            comment = self.zendesk.add_comment(ticket, attachments=urls)
            return webhook, json.dumps({"ticket_id": ticket, "comment_id": str(comment)}).encode()
        return webhook, json.dumps(self.zendesk.payload(ticket_id=ticket, attachments=urls)).encode()

    def _contents(self, kind: str) -> list[bytes]:
        if kind in {"bare", "garbage"}:
            return []
        if kind == "large":
            return [self.chance.choice(self._large)]
        return [self._small() for _ in range(self.chance.choice((1, 1, 1, 2, 5)))]

    def _small(self) -> bytes:
        return b"%PDF-1.7\n" + self.chance.randbytes(self.chance.randint(0, _MOST_SMALL_BYTES))

    def _faults(self, kind: str) -> list[Fault]:
        if kind == "gone":
            return [Fault(status=404)] * 1000
        if kind != "flaky":
            return []
        return [
            self.chance.choice(
                (
                    Fault(status=503, headers={"Retry-After": "1"}),
                    Fault(status=429, headers={"Retry-After": "2"}, at_cdn=True),
                    Fault(reset_after=512),
                    Fault(bytes_per_second=8_000),
                )
            )
        ]

    async def _send(
        self, session: ClientSession, webhook: Webhook, body: bytes, headers: dict[str, str]
    ) -> None:
        self.sending += 1
        webhook.sends += 1
        try:
            answer = await self._route(session, body, headers)
        except (ClientError, TimeoutError, OSError):
            webhook.note("unknown")
            return
        finally:
            self.sending -= 1
        if answer.status == 200:
            receipt = answer.json()
            webhook.note("ok", receipt.get("email_id") or receipt.get("quarantine_id"))
        elif 400 <= answer.status < 500:
            webhook.note("refused")
            self.ledger.unexpected.append(f"{webhook.ticket_id} was refused with {answer.status}")
        else:
            webhook.note("unknown")
            if "Retry-After" not in answer.headers:
                self.ledger.unexpected.append(f"{webhook.ticket_id} got {answer.status} without Retry-After")

    async def _route(self, session: ClientSession, body: bytes, headers: dict[str, str]) -> Answer:
        """Send to a web process, to the next where that one takes no connections, as a router does."""
        webs = self.chance.sample(self.webs, len(self.webs))
        for web in webs:
            try:
                return await send(session, f"{web}/webhooks/zendesk", body, headers, retries=True)
            except ClientConnectorError:
                if web == webs[-1]:
                    raise
        raise AssertionError("no web process")
