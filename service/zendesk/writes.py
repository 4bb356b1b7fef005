"""Calls that change something at Zendesk: one request, one bounded answer, and no blind repetition."""

import asyncio
import json
from collections.abc import Mapping
from typing import Literal

import aiohttp
from yarl import URL

from service.errors import HoldfastError, Permanent, Transient
from service.formatting import one_line
from service.outbound.egress import Egress
from service.outbound.responses import check_status, translate
from service.zendesk.access import ApiAccess
from service.zendesk.body import Unreadable, read_json

WriteMethod = Literal["POST", "PUT", "PATCH", "DELETE"]

MOST_REQUEST_BYTES = 256 * 1024
MOST_ANSWER_BYTES = 2 * 1024**2
# Zendesk's test of a webhook waits for the webhook's answer, at most 12 s.
SECONDS = 30.0

Json = dict[str, object]


async def write(  # noqa: PLR0913, PLR0917 the tools of a client, and the request
    session: aiohttp.ClientSession,
    egress: Egress,
    access: ApiAccess,
    method: WriteMethod,
    url: str,
    body: Mapping[str, object] | None,
) -> tuple[Json, Mapping[str, str]]:
    """Send one request; return the object of its answer, {} without one, and its headers.

    It is sent a second time only after a 401, with another access token: Zendesk did nothing then. Raises Transient
    and Permanent, with stable codes, and nothing else.
    """
    address = URL(url, encoded=True)
    egress.check_url(address)
    content = None if body is None else json.dumps(body).encode()
    if content is not None and len(content) > MOST_REQUEST_BYTES:
        raise Permanent("too_large", f"The request to Zendesk has more than {MOST_REQUEST_BYTES} bytes")
    for is_last in (False, True):
        header = await access.header(address)
        if header is None:
            raise Permanent(
                "address_refused", f"{address.raw_host}: this is not an address of the account's API"
            )
        try:
            async with asyncio.timeout(SECONDS), _sent(session, method, address, content, header) as response:
                if is_last or not await access.answered(header, response.status):
                    return await _read(response), response.headers
        except HoldfastError:
            raise
        except Exception as exc:  # noqa: BLE001 a hostile response may raise from any line of aiohttp
            raise translate(exc, address) from None  # its text contains the address
    raise AssertionError("the second request returns or raises")


def _sent(
    session: aiohttp.ClientSession, method: str, address: URL, content: bytes | None, header: str
) -> aiohttp.client._RequestContextManager:
    headers = {"Authorization": header, "Content-Type": "application/json", "Accept": "application/json"}
    return session.request(method, address, data=content, headers=headers, allow_redirects=False)


async def _read(response: aiohttp.ClientResponse) -> Json:
    if response.status == 204:
        return {}
    if response.status not in {200, 201, 400, 422}:
        check_status(response)
        raise Permanent("unexpected_status", f"{response.url.raw_host} answered {response.status}")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MOST_ANSWER_BYTES:
            raise Permanent("too_large", f"{response.url.raw_host}: more than {MOST_ANSWER_BYTES} bytes")
    answer = _object(bytes(body))
    if response.status in {400, 422}:
        raise Permanent(
            "invalid_record", f"Zendesk refuses the values ({response.status}): {_reason(answer)}"
        )
    if answer is None and body:
        raise Transient("bad_response", "Zendesk's API did not answer with an object")
    return answer or {}


def _object(body: bytes) -> Json | None:
    try:
        data = read_json(body)
    except Unreadable:
        return None
    return data if isinstance(data, dict) else None


def _reason(answer: Json | None) -> str:
    """Return Zendesk's own words about a refusal, bounded.

    https://developer.zendesk.com/api-reference/introduction/requests/#errors
    """
    parts = [answer.get(name) for name in ("error", "description", "details", "errors")] if answer else []
    said = [part if isinstance(part, str) else json.dumps(part) for part in parts if part]
    return one_line("; ".join(said), 400) or "without a reason"
