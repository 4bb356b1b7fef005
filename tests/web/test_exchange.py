"""Bodies and parameters are limited and validated, and errors name the field."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from aiohttp import web
from pydantic import Field

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.web.handling.requests import MOST_BODY_BYTES, Body, Whole, body
from tests.conftest import API_TOKEN, Server, serving

GOOD = {"kind": "all", "number": 5}


class Wanted(Body):
    kind: Literal["all", "some"]
    number: Whole = Field(1, ge=1, le=10)
    text: str | None = None


async def echo(request: web.Request) -> web.Response:
    wanted = await body(request, Wanted)
    return web.json_response(wanted.model_dump())


@pytest.fixture
async def client(settings: Settings, zendesk: Zendesk, res: Resources) -> AsyncIterator[Server]:
    async with serving(settings, zendesk, [web.post("/api/v1/echo", echo)]) as client:
        yield client


async def post(client: Server, data: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    known = {"Authorization": f"Bearer {API_TOKEN}", "Content-Type": "application/json"}
    url = f"{client.url}/api/v1/echo"
    async with client.session.post(url, data=data, headers=known | headers) as response:
        return response.status, await response.json(content_type=None)


async def test_body_is_parsed_by_its_model(client: Server) -> None:
    for sent in (json.dumps(GOOD), b'{"kind": "all", "number": 5.0}'):
        assert await post(client, sent) == (200, GOOD | {"text": None})


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b"{}", "kind: "),
        (b'{"kind": "none"}', "kind: "),
        (b'{"kind": "all", "number": "5"}', "number: "),
        (b'{"kind": "all", "number": true}', "number: "),
        (b'{"kind": "all", "number": 11}', "number: "),
        (b'{"kind": "all", "more": 1}', "more: "),
        (b'{"kind": "all", "text": "\\ud800"}', "JSON"),
        (b'{"kind": "all", "text": ' + b"[" * 10_000, "JSON"),
    ],
)
async def test_error_in_a_body_is_named(client: Server, sent: bytes, names: str) -> None:
    status, problem = await post(client, sent)

    assert (status, problem["code"]) == (400, "bad_body")
    assert names in problem["detail"]


async def test_body_must_be_uncompressed_json(client: Server) -> None:
    for headers in ({"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}):
        status, problem = await post(client, json.dumps(GOOD), **headers)

        assert (status, problem["status"]) == (415, 415)


async def test_body_has_limits_of_size_and_time(client: Server) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 1000
            await asyncio.sleep(0)

    assert (await post(client, json.dumps(GOOD).ljust(MOST_BODY_BYTES)))[0] == 200
    for large in (json.dumps(GOOD).ljust(MOST_BODY_BYTES + 1), endless()):
        status, problem = await post(client, large)

        assert (status, problem["code"]) == (413, "too_large")


async def test_repeated_parameter_is_refused(client: Server) -> None:
    for query in ("limit=1&limit=2", "limit=1&limit=1"):
        problem = await client.get(f"/api/v1/emails?{query}", 400)

        assert (problem["code"], problem["detail"]) == ("bad_parameter", "limit: given more than once")
