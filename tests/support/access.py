"""Tokens, and sessions of browsers."""

import base64
from http.cookies import Morsel, SimpleCookie
from typing import Any

from aiohttp import ClientResponse

from service.web.auth import sessions
from tests.conftest import Server

READ_TOKEN = "read-token-of-the-tests"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def ask(client: Server, method: str, path: str, **more: Any) -> ClientResponse:
    async with client.session.request(
        method, f"{client.url}{path}", allow_redirects=False, **more
    ) as response:
        await response.read()
        return response


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(token: str, name: str = "ada") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{token}'.encode()).decode()}"}


async def sign_in(client: Server, token: str, **fields: str) -> ClientResponse:
    return await ask(
        client,
        "POST",
        "/sign-in",
        data={"token": token, **fields},
        headers={**BROWSER, "Sec-Fetch-Site": "same-origin"},
    )


def cookie(response: ClientResponse) -> Morsel[str]:
    return SimpleCookie(response.headers["Set-Cookie"])[sessions.COOKIE]


async def session(client: Server, token: str, **fields: str) -> dict[str, str]:
    return {"Cookie": f"{sessions.COOKIE}={cookie(await sign_in(client, token, **fields)).value}"}
