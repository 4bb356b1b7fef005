"""Post a webhook as Zendesk does: signed, and repeated after the answers that Zendesk repeats."""

import asyncio
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import ClientSession, ClientTimeout

from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, SIGNATURE, TIMESTAMP, WEBHOOK_ID, sign

_TIMEOUT = ClientTimeout(total=10)
_SHORT_SECONDS = 60  # Zendesk documents "a short Retry-After" without a number
_RETRIES = {409: 3, 429: 5, 503: 5}
_TIMEOUTS = 5


@dataclass(frozen=True)
class WebhookResponse:
    """The last response to a webhook."""

    status: int
    headers: dict[str, str]
    body: bytes
    requests: int  # 1 without a repetition

    def json(self) -> Any:  # noqa: ANN401 JSON is anything
        return json.loads(self.body)


async def send(
    session: ClientSession, url: str, body: bytes, headers: dict[str, str], *, retries: bool = False
) -> WebhookResponse:
    """Post `body` with signed headers: one invocation, however often it is repeated.

    Raises TimeoutError after 10 s, and aiohttp's ClientError without a response.
    """
    requests = 0
    while True:
        requests += 1
        try:
            async with session.post(
                url, data=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as response:
                answer = WebhookResponse(
                    response.status, dict(response.headers), await response.read(), requests
                )
        except TimeoutError:
            if not retries or requests > _TIMEOUTS:
                raise
            continue
        pause = _pause(answer) if retries else None
        if pause is None:
            return answer
        await asyncio.sleep(pause)


def sign_headers(body: bytes, secret: str, signed_at: datetime | None = None) -> dict[str, str]:
    """Return the headers of a new invocation, signed now or at another time."""
    # Microseconds, unlike Zendesk: equal bodies sent within a second must be different invocations.
    timestamp = (signed_at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "Zendesk Webhook",
        ACCOUNT_ID: "21978514",
        WEBHOOK_ID: "01K9ZD7Q3W5HHZBEXAMPLE0000",
        INVOCATION_ID: str(uuid.uuid4()),
        TIMESTAMP: timestamp,
        SIGNATURE: sign(secret, timestamp, body),
    }


def _pause(answer: WebhookResponse) -> float | None:
    """Return the seconds before the next request, or None to give up."""
    if answer.requests > _RETRIES.get(answer.status, 0):
        return None
    if answer.status == 409:
        return 1
    after = answer.headers.get("Retry-After", "")
    return float(after) if after.isdecimal() and int(after) <= _SHORT_SECONDS else None
