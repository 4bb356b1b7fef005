"""The demo's play: a stand-in Zendesk sends e-mails, and we watch them through the API."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from service.local.board import Board, Email, is_over
from service.local.zendesk.samples import Sample
from service.local.zendesk.stand_in import Fault, Zendesk

_PAUSE_SECONDS = 0.25  # between two e-mails
_LONGEST_SECONDS = 120
_BUSY, _TWICE = 4, 7  # the e-mail whose file is refused at first, and the one that is sent again at the end


@dataclass
class Play:
    """The e-mails to send, and what came of them; `errors` are ours to explain, not an e-mail's."""

    script: Sequence[Sample]
    emails: Sequence[Email] = ()
    sent: int = 0
    duplicates: int = 0
    errors: list[str] = field(default_factory=list)

    def count(self, status: str) -> int:
        return sum(email["processing_status"] == status for email in self.emails)

    @property
    def unfinished(self) -> int:
        return self.sent - sum(map(is_over, self.emails))


async def perform(play: Play, url: str, token: str, zendesk: Zendesk, board: Board) -> None:
    """Send the e-mails and show them until all are completed or failed, or two minutes have passed."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        asyncio.TaskGroup() as group,
        ClientSession(url, headers=headers, timeout=ClientTimeout(total=10)) as session,
    ):
        sender = group.create_task(_send_all(play, f"{url}/webhooks/zendesk", zendesk, board))
        while time.monotonic() < deadline:
            play.emails = await _ask(session) or play.emails
            board.show(play.emails)
            if sender.done() and not play.unfinished:
                return
            await asyncio.sleep(0.1)
        sender.cancel()
        play.errors.append(f"{play.unfinished} e-mails did not complete within {_LONGEST_SECONDS} s")


async def _send_all(play: Play, url: str, zendesk: Zendesk, board: Board) -> None:
    twice: dict[str, Any] = {}
    for number, email in enumerate(play.script, 1):
        payload = _payload(zendesk, number, email)
        play.sent += await _send(play, url, zendesk, payload) == "accepted"
        if number == _BUSY:
            board.note(
                f"Zendesk answers 503, Retry-After: 1, to the first download for ticket {payload['ticket_id']}"
            )
        if number == _TWICE:
            twice = payload
        await asyncio.sleep(_PAUSE_SECONDS)
    again = await _send(play, url, zendesk, twice)
    play.duplicates += again == "duplicate"
    board.note(f"Zendesk sends ticket {twice['ticket_id']} a second time, and is told: {again}")


async def _send(play: Play, url: str, zendesk: Zendesk, payload: dict[str, Any]) -> str:
    try:
        answer = await zendesk.send(url, payload, retries=True)
    except (ClientError, TimeoutError) as exc:
        play.errors.append(f"the webhook did not answer: {exc!r}")
        return "none"
    if answer.status != 200:
        play.errors.append(f"the webhook answered {answer.status}: {answer.body.decode(errors='replace')}")
        return str(answer.status)
    return str(answer.json()["status"])


def _payload(zendesk: Zendesk, number: int, email: Sample) -> dict[str, Any]:
    busy = [Fault(status=503, headers={"Retry-After": "1"})] if number == _BUSY else []
    urls = []
    for position, file in enumerate(email.files):
        seconds = (
            1 + (number * 7 + position * 5) % 9 / 4.5
        )  # one to three, so that there is something to watch
        slow = [Fault(bytes_per_second=len(file.content) / seconds)] * 3
        urls.append(
            zendesk.add_file(
                file.name,
                file.content,
                content_type=file.content_type,
                faults=slow if position else [*busy, *slow],
            )
        )
    address = email.from_name.encode("ascii", "ignore").decode().lower().replace(" ", ".")
    return zendesk.payload(
        ticket_id=48_100 + number,
        subject=email.subject,
        from_name=email.from_name,
        from_email=f"{address}@customer.example",
        attachments=urls,
    )


async def _ask(session: ClientSession) -> Sequence[Email]:
    """Return all e-mails, the oldest first; none while web does not answer."""
    try:
        async with session.get("/api/v1/emails", params={"limit": 100}) as response:
            if response.status != 200:
                return ()
            emails: list[Email] = (await response.json())["emails"]
    except (ClientError, TimeoutError):
        return ()
    return sorted(emails, key=lambda email: int(email["id"]))
