"""Send one e-mail of each kind that Zendesk announces to a running Holdfast, and show what becomes of it."""

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from service.local import send
from service.local.send import Installation
from service.local.zendesk.sample_files import SampleFile, make
from service.local.zendesk.sender import sign_headers
from service.local.zendesk.stand_in import Zendesk

# Beyond WEBHOOK_TOLERANCE_SECONDS of any installation.
_LATE = timedelta(days=1)

Kind = Callable[[Zendesk, Installation], Awaitable[bool]]


def run(kind: str, url: str | None, env_file: Path | None) -> None:
    """Send an e-mail of a kind; exit with 0 if what Holdfast does with it is right, else with 1."""
    there = send.find_installation(url, env_file)
    there.require("API_TOKEN")
    send.run_beside(there, lambda zendesk: KINDS[kind](zendesk, there))


async def _mail(zendesk: Zendesk, there: Installation) -> bool:
    answer = await send.post(zendesk, there, await _webhook(zendesk, there, _files()))
    return await send.follow(answer, there)


async def _thin(zendesk: Zendesk, there: Installation) -> bool:
    """Name the e-mail by its numbers alone: the worker asks Zendesk for everything else."""
    webhook = (
        await _webhook(zendesk, there, _files()) if there.has_stand_in else zendesk.announcement(_ticket(), 1)
    )
    if not there.has_stand_in:
        click.echo("Zendesk does not know this ticket, so the e-mail waits for it, and then fails.")
    return await send.follow(await send.post(zendesk, there, webhook), there)


async def _event(zendesk: Zendesk, there: Installation) -> bool:
    """Send the event of one file, as Zendesk's own subscriptions do, without a trigger."""
    (file, *_) = _files()
    local = zendesk.add_file(file.name, file.content, content_type=file.content_type, public=True)
    ticket = _ticket()
    event = zendesk.event(local, ticket_id=ticket)
    if there.has_stand_in:
        webhook = await send.deliver(there, _email(ticket), [file])
        event["event"]["comment"] |= {
            "id": webhook["comment_id"],
            "attachment": await send.first_attachment(there, webhook),
        }
    return await send.follow(await send.post(zendesk, there, event), there)


async def _broken(zendesk: Zendesk, there: Installation) -> bool:
    """Send what a template makes of a subject with a quotation mark, where it lacks the filter that escapes it."""
    body = f'{{"ticket_id": "{_ticket()}", "subject": "The 17" screen", "comment_id": "1"}}'
    answer = await send.post(zendesk, there, body.encode())
    await send.follow(answer, there)
    return answer.status == 200 and "quarantine_id" in answer.json()


async def _late(zendesk: Zendesk, there: Installation) -> bool:
    """Send a webhook that was signed yesterday: it is accepted, and marked as late."""
    webhook = send.as_bytes(await _webhook(zendesk, there, _files()))
    signed_at = datetime.now(UTC) - _LATE
    answer = await send.post(zendesk, there, webhook, sign_headers(webhook, there.secret, signed_at))
    return await send.follow(answer, there)


async def _duplicate(zendesk: Zendesk, there: Installation) -> bool:
    """Send one webhook twice, as Zendesk does without an answer: it is one e-mail."""
    webhook = send.as_bytes(await _webhook(zendesk, there, _files()))
    headers = sign_headers(webhook, there.secret)
    first = await send.post(zendesk, there, webhook, headers)
    second = await send.post(zendesk, there, webhook, headers)
    is_one = first.status == second.status == 200 and first.json()["email_id"] == second.json()["email_id"]
    return await send.follow(first, there) and is_one


KINDS: Mapping[str, Kind] = {
    "mail": _mail,
    "thin": _thin,
    "event": _event,
    "broken": _broken,
    "late": _late,
    "duplicate": _duplicate,
}


async def _webhook(zendesk: Zendesk, there: Installation, files: list[SampleFile]) -> dict[str, Any]:
    """Return the webhook of a new e-mail: the demo's stand-in has it, or else this process serves its files."""
    if there.has_stand_in:
        return await send.deliver(there, _email(_ticket()), files)
    webhook = zendesk.payload(ticket_id=_ticket())
    send.attach(webhook, zendesk, files)
    return webhook


def _email(ticket: int) -> dict[str, object]:
    return {
        "ticket_id": ticket,
        "subject": "Invoice RE 2026/1003",
        "from_name": "Mara Lindqvist",
        "from_address": "mara@customer.example",
        "text": "Please find the invoice attached.",
    }


def _files() -> list[SampleFile]:
    noise = random.Random()  # noqa: S311 the noise of a picture
    return [
        make("invoice.pdf", 40, "Invoice RE 2026/1003", noise),
        make("delivery.csv", 4, "Delivery", noise),
    ]


def _ticket() -> int:
    """Return a number that no other e-mail of a test has."""
    return time.time_ns() // 1_000_000
