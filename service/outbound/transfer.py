"""Download a URL as a bounded stream of bytes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from service.errors import HoldfastError, Permanent, Transient
from service.outbound.addresses import is_sign_in, parse, redirected
from service.outbound.decoding import decoded
from service.outbound.egress import Egress
from service.outbound.responses import (
    Expected,
    Limits,
    check_head,
    check_headers,
    check_size,
    check_status,
    codings,
    sign_in_page,
    too_large,
    translate,
)

_BUFFER_BYTES = 256 * 1024  # the sender has to wait beyond twice this
_HEAD_BYTES = 4096  # enough to distinguish a page from a file
_REDIRECTS = {301, 302, 303, 307, 308}


class Access(Protocol):
    """Decides which hops see credentials; `service.zendesk.access` implements it."""

    async def header(self, hop: URL) -> str | None:
        """Return the `Authorization` header for one hop, or None; raises Transient and Permanent."""
        ...

    async def answered(self, header: str, status: int) -> bool:
        """Note the status that followed a header; return True if another header may succeed."""
        ...

    def owns(self, hop: URL) -> bool:
        """Say whether a hop is on a host of the account, where a sign-in page may stand for a file."""
        ...


def open_session(egress: Egress, resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """Open the session of downloads, inside a running loop; the caller limits how many run at once."""
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
    """A download in progress: chunks of less than 1 MiB, the host that sends them, and its headers."""

    host: str
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks


@asynccontextmanager
async def download(  # noqa: PLR0913 each argument is independent, four are keywords
    session: aiohttp.ClientSession,
    egress: Egress,
    url: str,
    *,
    expected: Expected,
    limits: Limits,
    access: Access,
) -> AsyncIterator[Download]:
    """Yield a download; the file is complete only when its chunks end without an error.

    Raises Transient and Permanent, on entering and from the chunks, and nothing else whatever the server
    does.
    """
    deadline = asyncio.get_running_loop().time() + limits.seconds
    transfer = _Transfer(session, egress, limits, access, deadline)
    response, is_same_host = await transfer.request(url)
    try:
        async with transfer.translated(response.url):
            check_status(response)
            check_headers(response, expected, limits)
        head = await transfer.read(response, _HEAD_BYTES)
        # Without a redirect to a CDN, a page may stand for the file.
        if is_same_host or access.owns(response.url):
            check_head(response, expected, head, of_account=access.owns(response.url))
        async with aclosing(transfer.chunks(response, expected, head)) as chunks:
            yield Download(response.url.host or "", response.headers, chunks)
    finally:
        response.release()


@dataclass(frozen=True)
class _Transfer:
    session: aiohttp.ClientSession
    egress: Egress
    limits: Limits
    access: Access
    deadline: float  # of the loop's clock

    async def request(self, url: str) -> tuple[aiohttp.ClientResponse, bool]:
        """Return the response, and whether it came from the first host.

        Redirects are followed by hand: aiohttp would quote a signed address again, and go to any host.
        """
        hop = first = parse(url)
        for left in range(self.limits.redirects, -1, -1):
            response = await self._get(hop)
            if response.status not in _REDIRECTS:
                return response, response.url.origin() == first.origin()
            response.release()
            if not left:
                break
            target = redirected(hop, response.headers.get("Location", ""))
            if is_sign_in(target) and (target.origin() == hop.origin() or self.access.owns(target)):
                raise sign_in_page(hop)
            hop = target
        raise Permanent("too_many_redirects", f"{hop.raw_host}: more than {self.limits.redirects} redirects")

    async def chunks(
        self, response: aiohttp.ClientResponse, expected: Expected, head: bytes
    ) -> AsyncGenerator[bytes]:
        """Yield the decoded chunks; raise if the size proves that this is not the announced file."""
        received, undo = 0, codings(response, expected)
        pieces = decoded(self._received(response, head), undo, self.limits.max_bytes)
        async with aclosing(pieces):
            async for piece in pieces:
                received += len(piece)
                yield piece
        check_size(response, expected, received)

    async def read(self, response: aiohttp.ClientResponse, at_least: int = 1) -> bytes:
        """Read at least this many bytes; fewer only at the end."""
        data = b""
        async with self.translated(response.url):
            while len(data) < at_least and (more := await response.content.readany()):
                data = data + more if data else more
        return data

    async def _received(self, response: aiohttp.ClientResponse, head: bytes) -> AsyncGenerator[bytes]:
        """Yield the bytes as received, up to the limit."""
        chunk, received = head, 0
        while chunk:
            received += len(chunk)
            if received > self.limits.max_bytes:
                raise too_large(response, self.limits)
            yield chunk
            chunk = await self.read(response)

    @asynccontextmanager
    async def translated(self, hop: URL) -> AsyncIterator[None]:
        """Hold a step to the deadline, and translate its errors."""
        try:
            async with asyncio.timeout_at(self.deadline):
                if asyncio.get_running_loop().time() >= self.deadline:
                    raise TimeoutError  # noqa: TRY301 a timer never fires while a server always has more bytes ready
                yield
        except HoldfastError:
            raise
        except Exception as exc:  # noqa: BLE001 a hostile response may raise from any line of aiohttp
            raise translate(exc, hop) from None  # its text contains the address, and thereby a token

    async def _get(self, hop: URL) -> aiohttp.ClientResponse:
        """Send one request; if it refuses an access token that has just ended, send it again with the next token."""
        self.egress.check_url(hop)
        header = await self.access.header(hop)
        response = await self._send(hop, header)
        if header is not None and await self._is_replaced(response, header):
            response = await self._send(hop, await self.access.header(hop))
            if response.status == 401:
                response.release()
                raise Transient("unauthorized", f"{hop.raw_host} refuses one access token after another")
        return response

    async def _is_replaced(self, response: aiohttp.ClientResponse, header: str) -> bool:
        try:
            better = await self.access.answered(header, response.status)
        except BaseException:
            response.release()
            raise
        if better:
            response.release()
        return better

    async def _send(self, hop: URL, header: str | None) -> aiohttp.ClientResponse:
        stall = self.limits.stall_seconds
        async with self.translated(hop):
            return await self.session.get(
                hop,
                allow_redirects=False,
                headers={"Authorization": header} if header else {},
                timeout=aiohttp.ClientTimeout(sock_connect=stall, sock_read=stall),
            )
