"""Logins of commands: begin, confirm in a browser, poll."""

import json
from typing import Any

import asyncpg
from aiohttp import ClientResponse

from tests.conftest import API_TOKEN, Server
from tests.support.access import BROWSER, ask, session

OURS = {**BROWSER, "Sec-Fetch-Site": "same-origin"}


async def begin(client: Server, name: str = "laptop") -> dict[str, Any]:
    response = await ask(client, "POST", "/login/begin", json={"name": name})
    assert response.status == 200, await response.text()
    begun: dict[str, Any] = json.loads(await response.text())
    return begun


async def answer(client: Server, code: str, token: str = API_TOKEN, **fields: object) -> ClientResponse:
    """Confirm as Ada, signed in with this token, or whatever the fields say."""
    cookie = await session(client, token, name="Ada")
    data = {"code": code, "days": "90", "answer": "confirm", **fields}
    return await ask(client, "POST", "/login", headers={**OURS, **cookie}, data=data)


async def poll(client: Server, secret: str) -> tuple[int, dict[str, Any]]:
    response = await ask(client, "POST", "/login/poll", json={"secret": secret})
    return response.status, json.loads(await response.text())


async def signed_in(client: Server, token: str = API_TOKEN, name: str = "laptop", **fields: object) -> str:
    """Return the token of a new login."""
    begun = await begin(client, name)
    response = await answer(client, begun["user_code"], token, **fields)
    assert response.status == 200, await response.text()
    secret: str = begun["secret"]
    return secret


async def earlier(database: asyncpg.Connection, column: str, interval: str) -> None:
    """Move a time of all logins back."""
    await database.execute(f"UPDATE logins SET {column} = {column} - interval '{interval}'")
