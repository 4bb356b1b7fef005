"""Turn a URL into a bounded stream of bytes."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from string import ascii_letters, digits, punctuation
from typing import Protocol
from urllib.parse import quote

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from service.download.answers import (
    Expected,
    Limits,
    check_head,
    check_headers,
    check_size,
    check_status,
    too_large,
)
from service.download.failures import translate
from service.errors import HoldfastError, Permanent, Transient

_BUFFER_BYTES = 256 * 1024  # beyond twice this the sender has to wait
_HEAD_BYTES = 512  # enough to tell a page from a file
_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_PRINTABLE = ascii_letters + digits + punctuation
# Where Zendesk sends those who did not sign in: /access/unauthenticated, /auth/v2/login/signin, /hc/en-us/signin
_SIGN_IN = re.compile(r"/(access|auth/v\d+|login|signin|sign_in|users/sign_in|hc/([^/]+/)?signin)(/|$)")


class Egress(Protocol):
    """What we may dial: `service.egress.Egress`, which is another tool and so not imported here."""

    def check_url(self, url: URL) -> None: ...
    def open_connector(self, resolver: AbstractResolver | None = None) -> aiohttp.TCPConnector: ...


@dataclass(frozen=True)
class Credentials:
    """An Authorization header and the one origin that gets it."""

    origin: URL
    authorization: str = field(repr=False)


def open_session(egress: Egress, resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """Open what downloads go through, inside a running loop; how many at once is the caller's to limit."""
    return aiohttp.ClientSession(
        connector=egress.open_connector(resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "holdfast", "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        read_bufsize=_BUFFER_BYTES,
        max_field_size=16 * 1024,  # a Location with a long token
    )


@dataclass(frozen=True)
class Download:
    """A file on its way: chunks of less than 1 MiB, and the host that sends them."""

    host: str
    chunks: AsyncIterator[bytes]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks


@asynccontextmanager
async def download(  # noqa: PLR0913 each is a thing of its own, four by keyword
    session: aiohttp.ClientSession,
    egress: Egress,
    url: str,
    *,
    expected: Expected,
    limits: Limits,
    credentials: Credentials | None,
) -> AsyncIterator[Download]:
    """Give the file; it is whole only when they have ended without an error.

    Raises Transient and Permanent, on entering and from the chunks, and nothing else whatever the server does.
    """
    deadline = asyncio.get_running_loop().time() + limits.seconds
    transfer = _Transfer(session, egress, limits, credentials, deadline)
    response = await transfer.request(url)
    try:
        async with transfer.translated(response.url):
            check_status(response)
            check_headers(response, expected, limits)
        async with aclosing(transfer.chunks(response, expected)) as chunks:
            yield Download(response.url.host or "", chunks)
    finally:
        response.release()


@dataclass(frozen=True)
class _Transfer:
    session: aiohttp.ClientSession
    egress: Egress
    limits: Limits
    credentials: Credentials | None
    deadline: float  # of the loop's clock

    async def request(self, url: str) -> aiohttp.ClientResponse:
        """Follow redirects by hand: aiohttp would quote a signed address anew, and go anywhere."""
        hop = _parse(url)
        for _ in range(_MAX_REDIRECTS + 1):
            self.egress.check_url(hop)
            async with self.translated(hop):
                response = await self.session.get(
                    hop,
                    allow_redirects=False,
                    headers=self._headers(hop),
                    timeout=aiohttp.ClientTimeout(
                        sock_connect=self.limits.stall_seconds, sock_read=self.limits.stall_seconds
                    ),
                )
            if response.status not in _REDIRECTS:
                return response
            response.release()
            hop = _redirected(hop, response.headers.get("Location", ""))
        raise Permanent("too_many_redirects", f"{hop.raw_host}: more than {_MAX_REDIRECTS} redirects")

    async def chunks(self, response: aiohttp.ClientResponse, expected: Expected) -> AsyncGenerator[bytes]:
        """Refuse what shows itself at its first bytes, its length or its end as not the announced file."""
        chunk = head = await self._read(response, _HEAD_BYTES)
        async with self.translated(response.url):
            check_head(response, expected, head)
        received = 0
        while chunk:
            received += len(chunk)
            if received > self.limits.max_bytes:
                raise too_large(response, self.limits)
            yield chunk
            chunk = await self._read(response)
        check_size(response, expected, received)

    @asynccontextmanager
    async def translated(self, hop: URL) -> AsyncIterator[None]:
        """Hold a step to the deadline, and make its errors ours."""
        try:
            async with asyncio.timeout_at(self.deadline):
                if asyncio.get_running_loop().time() >= self.deadline:
                    raise TimeoutError  # noqa: TRY301 a timer never fires on a server that is always ready
                yield
        except HoldfastError:
            raise
        except Exception as exc:  # noqa: BLE001 a hostile answer may reach any line of aiohttp
            raise translate(exc, hop) from None  # its text has the address, and that a token

    async def _read(self, response: aiohttp.ClientResponse, at_least: int = 1) -> bytes:
        data = b""
        async with self.translated(response.url):
            while len(data) < at_least and (more := await response.content.readany()):
                data = data + more if data else more
        return data

    def _headers(self, hop: URL) -> dict[str, str]:
        mine = self.credentials and _origin(hop) == _origin(self.credentials.origin)
        return {"Authorization": self.credentials.authorization} if self.credentials and mine else {}


def _parse(url: str) -> URL:
    parsed = _absolute(URL(), url.strip())
    if parsed is None:
        raise Permanent("bad_url", "the attachment's address is no URL")
    return parsed


def _redirected(hop: URL, location: str) -> URL:
    target = _absolute(hop, location) if location else None
    if target is None:
        raise Transient("bad_response", f"{hop.raw_host} redirects to something that is no URL")
    if hop.scheme == "https" != target.scheme:
        raise Permanent("address_refused", f"{hop.raw_host} redirects from https to {target.scheme}")
    if _SIGN_IN.match(target.raw_path):
        raise Permanent("sign_in_page", f"{hop.raw_host} wants a sign-in: check the Zendesk credentials")
    return target


def _absolute(base: URL, text: str) -> URL | None:
    """Leave every byte that a request line can hold as it is, for it may be signed."""
    try:
        url = base.join(URL(quote(text, safe=_PRINTABLE, errors="surrogateescape"), encoded=True))
        whole = url.scheme and url.raw_host  # yarl splits host and port only now, and may raise
    except ValueError:
        return None
    return url if whole else None


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, (url.raw_host or "").lower(), url.port
