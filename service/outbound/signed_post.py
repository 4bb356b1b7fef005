"""Post JSON once to an address of the operator, within bounds and optionally signed."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from standardwebhooks import Webhook
from yarl import URL

from service.errors import Transient
from service.outbound.backoff import parse_retry_after

SECONDS = 15.0


@dataclass(frozen=True)
class PostResponse:
    """A receiver's response: its status, and the pause that it asks for, if any."""

    status: int
    retry_after: timedelta | None

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300


def open_session(seconds: float = SECONDS) -> aiohttp.ClientSession:
    """Open the session for posts; it keeps no cookies between two of them."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "holdfast", "Content-Type": "application/json"},
    )


async def post(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]
) -> PostResponse:
    """Post `body` and return the response; redirects are not followed.

    Raises Transient without the address in its message: the address may be a secret.
    """
    return (await _send(session, "POST", url, data=body, headers=headers))[0]


async def post_for_bytes(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str], most: int
) -> tuple[PostResponse, bytes]:
    """Post `body` and return the response with its bytes, at most so many; raises as `post` does."""
    return await _send(session, "POST", url, most=most, data=body, headers=headers)


async def reach(session: aiohttp.ClientSession, url: str) -> None:
    """Check with a HEAD that a server answers, with any status; raises as `post` does."""
    await _send(session, "HEAD", url)


def signed(message_id: str, body: str, *secrets: str) -> dict[str, str]:
    """Return the headers that prove our signature to a receiver who has any of the secrets.

    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    now = datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, now, body) for secret in secrets),
    }


async def _send(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    most: int = 0,
    **more: Any,  # noqa: ANN401 aiohttp's parameters
) -> tuple[PostResponse, bytes]:
    try:
        # Follow no redirect: the body is meant for this address only.
        async with session.request(method, URL(url), allow_redirects=False, **more) as response:
            retry_after = parse_retry_after(response.headers.get("Retry-After", ""))
            content = await _read(response, most) if most else b""
            return PostResponse(response.status, retry_after), content
    except (aiohttp.ClientSSLError, ssl.SSLError):
        raise Transient("tls_failed", "no secure connection: check its certificate") from None
    except TimeoutError:
        limit = session.timeout.total or 0
        raise Transient("receiver_slow", f"no answer within {limit:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise Transient("receiver_away", f"it cannot be reached: {type(exc).__name__}") from None


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read a body; a longer one is cut, and so is no valid answer."""
    content = b""
    while len(content) < most and (piece := await response.content.read(most - len(content))):
        content += piece
    return content
