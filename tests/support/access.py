"""Requests with tokens and with sessions of browsers."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import Morsel, SimpleCookie
from typing import Any

from aiohttp import ClientResponse, DummyCookieJar
from pydantic import SecretStr

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.web.auth import sessions
from tests.conftest import Server, serving

READ_TOKEN = "read-token-of-the-tests"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@asynccontextmanager
async def serving_readers(settings: Settings, zendesk: Zendesk) -> AsyncIterator[Server]:
    """Run the web server with a token for readers, too, and a client that keeps no cookies."""
    both = settings.model_copy(update={"api_read_token": SecretStr(READ_TOKEN)})
    async with serving(both, zendesk) as client:
        client.session._cookie_jar = DummyCookieJar()
        yield client


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


async def code_of(response: ClientResponse) -> str:
    problem: dict[str, str] = json.loads(await response.text())
    return problem["code"]


async def headers_of(client: Server, way: str, token: str) -> dict[str, str]:
    """Return the headers that authenticate: `way` is bearer, basic or session."""
    if way == "session":
        return {**await session(client, token), "Sec-Fetch-Site": "same-origin"}
    return bearer(token) if way == "bearer" else basic(token)
