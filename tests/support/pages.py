"""Requests for pages as a browser without JavaScript sends them."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from random import Random
from typing import Any

from aiohttp import ClientResponse

from service.local.zendesk.sample_files import make
from service.local.zendesk.stand_in import Fault
from tests.conftest import API_TOKEN, Server

HOSTILE = "\u202egnp.<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x07"
PNG = make("front.png", 900, "Parcel arrived damaged", Random(1))
INVOICE = make("invoice-2026-1003.pdf", 84, "Invoice RE 2026/1003", Random(1))
PAGES = (
    "/",
    "/emails",
    "/emails/1",
    "/failures",
    "/quarantine",
    "/quarantine/1",
    "/retries",
    "/retries/plan?status=failed",
    "/activity",
    "/complete",
    "/complete?day=2026-01-31",
)


@asynccontextmanager
async def asking(
    client: Server, path: str, *, form: dict[str, str] | None = None, token: str = API_TOKEN, **headers: str
) -> AsyncIterator[ClientResponse]:
    """Send a request as a browser does; follow no redirect."""
    method = "GET" if form is None else "POST"
    shown = {"Authorization": f"Bearer {token}", "Accept": "text/html", **headers}
    async with client.session.request(
        method, f"{client.url}{path}", data=form, headers=shown, allow_redirects=False
    ) as response:
        yield response


async def read(client: Server, path: str, status: int = 200, **more: Any) -> str:
    async with asking(client, path, **more) as response:
        text = await response.text()
        assert response.status == status, text
        return text


async def press(client: Server, path: str, **form: str) -> str:
    """Send a form; return the address of the redirect."""
    async with asking(client, path, form=form) as response:
        assert response.status == 303, await response.text()
        return response.headers["Location"]


async def send(client: Server, *, name: str = "a.txt", content: bytes = b"Hello", **more: Any) -> int:
    faults = more.pop("faults", ())
    url = client.zendesk.add_file(name, content, faults=faults)
    receipt = await client.send(client.zendesk.payload(attachments=[url], **more))
    return int(receipt["email_id"])


async def failing(client: Server, **more: Any) -> int:
    """Send an e-mail whose file is gone at the first download; wait until it has failed."""
    email_id = await send(client, faults=[Fault(status=404)], **more)
    await client.until(email_id, "failed")
    return email_id


async def quarantine(client: Server) -> int:
    receipt = await client.send(b'{"ticket_id": "<b>bold</b>", ' + b"\xff")
    return int(receipt["quarantine_id"])


def fields_of(page: str, action: str) -> dict[str, str]:
    """Return what a browser sends of a page's form that nobody filled in: all of its fields, and no checkbox."""
    form = re.search(rf'<form [^>]*action="{re.escape(action)}".*?</form>', page, re.DOTALL)
    assert form is not None, page
    inputs = [
        dict(re.findall(r'([a-z]+)="([^"]*)"', each)) for each in re.findall(r"<input ([^>]*)>", form[0])
    ]
    return {
        each["name"]: unescape(each.get("value", "")) for each in inputs if each.get("type") != "checkbox"
    }


def words_of(page: str) -> str:
    """Return the text of a page."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())
