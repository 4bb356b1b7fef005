"""Requests to the API."""

import json
import re
from typing import Any

from aiohttp import ClientResponse

from tests.conftest import API_TOKEN, Client

AUTHORIZED = {"Authorization": f"Bearer {API_TOKEN}"}
EMAILS = "/api/v1/emails"


async def ask(
    client: Client, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[ClientResponse, bytes]:
    headers = AUTHORIZED if headers is None else headers
    async with client.session.request(method, f"{client.url}{path}", headers=headers) as response:
        return response, await response.read()


async def refused(client: Client, method: str, path: str, status: int, **more: Any) -> dict[str, Any]:
    """Send a request; check that the API refuses it with this status; return the problem."""
    response, body = await ask(client, method, path, **more)
    assert response.status == status, body
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = json.loads(body)
    assert problem["status"] == status
    assert re.fullmatch(r"[a-z_]+", problem["code"])
    assert problem["detail"]
    return problem


async def post_as_operator(client: Client, path: str, status: int, **body: object) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {API_TOKEN}", "X-Operator": "ada"}
    async with client.session.post(f"{client.url}{path}", headers=headers, json=body) as response:
        assert response.status == status, await response.text()
        answer: dict[str, object] = await response.json(content_type=None)
        return answer
