"""Post JSON to an address of the operator's, once and within bounds."""

import ssl
from collections.abc import Mapping
from datetime import timedelta

import aiohttp
from yarl import URL

from service.errors import HoldfastError, Permanent, Transient

SECONDS = 15.0
# Of those below 500 these are about the moment, not about the request.
_AGAIN = {408, 425, 429}


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Post `body`; any 2xx will do. Raises Transient or Permanent, which never show the address: it may be a secret."""
    try:
        # A session for each: alerts are rare, and nothing is left open between them.
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "holdfast", "Content-Type": "application/json", **headers},
            ) as session,
            # Not to where else it points: nobody but this address is meant to know.
            session.post(URL(url), data=body, allow_redirects=False) as response,
        ):
            error = _error(response)
    except (aiohttp.ClientSSLError, ssl.SSLError):
        raise Transient("tls_failed", "no secure connection: look at its certificate") from None
    except TimeoutError:
        raise Transient("receiver_slow", f"no answer within {SECONDS:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise Transient("receiver_away", f"it cannot be reached: {type(exc).__name__}") from None
    if error:
        raise error


def _error(response: aiohttp.ClientResponse) -> HoldfastError | None:
    status = response.status
    if 200 <= status < 300:
        return None
    if status in _AGAIN or status >= 500:
        asked = response.headers.get("Retry-After", "")
        pause = (
            timedelta(seconds=int(asked)) if asked.isascii() and asked.isdigit() and len(asked) < 6 else None
        )
        return Transient("receiver_busy", f"it answered {status}", pause)
    return Permanent("receiver_refused", f"it answered {status}: look at the address and what it expects")
