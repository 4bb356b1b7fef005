"""Requests to the API of a server: bounded answers, and errors that say what to do."""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from service.errors import Permanent, Rejected, Transient, certificate_problem

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from yarl import URL

SECONDS = 60.0  # for a whole answer; the server's own limit is DATABASE_SECONDS
CONNECT_SECONDS = 10.0
MOST_BYTES = 64 * 1024**2  # of an answer
# The server's text for a path that it does not have. Other answers with the same code are about a value.
_NO_PAGE = "There is no page at this address."
_NOT_SIGNED_IN = (
    "{url} does not know this login: it was revoked, has ended, or the server's API_TOKEN is new."
    " Run `holdfast login {url}`."
)
_TOO_OLD = "{url} does not know this operation: it runs an older version. Update it, or use a command of its version."
_NOT_HOLDFAST = "is no Holdfast, or a proxy before it answers instead"


@dataclass(frozen=True)
class Server:
    """A server, and the token of a login there; both without a slash at the end."""

    url: str
    token: str = field(default="", repr=False)


class Moved(Exception):
    """The e-mail became part of another one, whose address this is."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


@asynccontextmanager
async def open_exchange(server: Server) -> "AsyncIterator[Exchange]":
    """Open the connections to a server; no cookies, and nothing of ~/.netrc, which would replace the token."""
    from aiohttp import ClientSession, DummyCookieJar

    async with ClientSession(cookie_jar=DummyCookieJar()) as session:
        yield Exchange(session, server)


class Exchange:
    """Sends requests to one server, with the token of the login."""

    def __init__(self, session: "ClientSession", server: Server) -> None:
        self._session = session
        self._server = server

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        is_of_email: bool = False,
    ) -> bytes:
        """Return the body of a good answer; raises Rejected, Transient, Permanent, and about an e-mail Moved."""
        from aiohttp import ClientError, ClientTimeout

        server = self._server
        try:
            async with self._session.request(
                method,
                server.url + path,
                params=query,
                json=body,
                headers={"Accept": "application/json", **self._login},
                proxy=_proxy_of(server.url),
                allow_redirects=False,  # the token goes to this server alone
                timeout=ClientTimeout(total=SECONDS, sock_connect=CONNECT_SECONDS),
            ) as response:
                content = await _read(response, server)
        except (ClientError, TimeoutError, OSError) as exc:
            raise _unreachable(server.url, exc) from exc
        if 200 <= response.status < 300:
            return content
        raise _refusal(server, response, content, is_of_email=is_of_email)

    async def pieces(self, path: str, *, may_be_elsewhere: bool = False) -> AsyncIterator[bytes]:
        """Yield a file piece by piece, without a limit of its size; raises as `ask` does about an e-mail.

        A file that `may_be_elsewhere` is followed once, to an address in a bucket, which does not get the token.
        """
        from yarl import URL

        server, address = self._server, None
        async with self._opened(URL(server.url + path), self._login, server.url) as response:
            if may_be_elsewhere and response.status == 302:
                address = response.headers.get("Location", "")
            elif response.status != 200:
                content = await _read(response, server)
                raise _refusal(server, response, content, is_of_email=True)
            else:
                async for piece in response.content.iter_any():
                    yield piece
        if address is not None:
            elsewhere = _elsewhere(server.url, address)
            name = f"The storage at {elsewhere.host}"  # the whole address would be as good as a token
            async with self._opened(elsewhere, {}, name) as response:
                if response.status != 200:
                    raise Transient("storage_unavailable", f"{name} answers {response.status}: try again.")
                async for piece in response.content.iter_any():
                    yield piece

    @asynccontextmanager
    async def _opened(
        self, address: "URL", login: Mapping[str, str], name: str
    ) -> "AsyncIterator[ClientResponse]":
        """Ask for a file; errors of the connection become those of commands, also while it is read."""
        from aiohttp import ClientError, ClientTimeout

        try:
            async with self._session.get(
                address,
                headers={"Accept-Encoding": "identity", **login},
                proxy=_proxy_of(str(address)),
                allow_redirects=False,
                timeout=ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=SECONDS),
            ) as response:
                yield response
        except (ClientError, TimeoutError, OSError) as exc:
            raise _unreachable(name, exc) from exc

    @property
    def _login(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._server.token}"} if self._server.token else {}


def _proxy_of(url: str) -> str | None:
    """Return the proxy of the environment; none for http, which goes to this machine alone and would show the token."""
    parts = urlsplit(url)
    if parts.scheme != "https" or proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get("https")


def read_json(content: bytes, server_url: str) -> Any:  # noqa: ANN401 JSON
    """Read an answer; raises Permanent if it is no JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Permanent("server_unknown", f"{server_url} {_NOT_HOLDFAST}.") from None


async def _read(response: "ClientResponse", server: Server) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MOST_BYTES:
            raise Permanent("answer_too_large", f"{server.url} sends more than {MOST_BYTES:,} bytes.")
    return bytes(content)


def _elsewhere(server_url: str, address: str) -> "URL":
    """Return the address of a file in a bucket; raises Permanent if others could read the file on its way."""
    from yarl import URL

    try:
        found = URL(address, encoded=True)  # a signature is of the exact text
        is_safe = bool(found.host) and found.scheme in {"https", urlsplit(server_url).scheme}
    except ValueError:
        is_safe = False
    if not is_safe:
        raise Permanent("server_untrusted", f"{server_url} redirects a file to an address that is not https.")
    return found


def _refusal(server: Server, response: "ClientResponse", content: bytes, *, is_of_email: bool) -> Exception:
    if response.status == 308 and is_of_email:
        return Moved(response.headers.get("Location", ""))
    return _error(server.url, response.status, content)


def _unreachable(name: str, exc: Exception) -> Permanent | Transient:
    if problem := certificate_problem(exc.__cause__ or exc):
        advice = "Check the address; a private authority is trusted with SSL_CERT_FILE=FILE."
        return Permanent("server_untrusted", f"{name} is not trusted: {problem}. {advice}")
    message = f"{name} cannot be reached: {_reason_of(exc)}. Check the address and the network."
    return Transient("server_away", message)


def _reason_of(exc: Exception) -> str:
    """Return the text of the operating system for an error; aiohttp's own text repeats the address."""
    if isinstance(exc, TimeoutError):
        return "it does not answer"
    system = getattr(exc, "os_error", exc)
    if isinstance(system, OSError) and system.errno:  # a failed look-up of a name has a negative number
        return os.strerror(system.errno) if system.errno > 0 else str(system.strerror)
    return str(exc).rstrip(".") or type(exc).__name__


def _error(url: str, status: int, content: bytes) -> Rejected | Permanent | Transient:
    code, detail = _problem_of(content)
    if status in {502, 503, 504}:
        return Transient("server_away", f"{url} is not ready: {detail or status}")
    if status == 429 and code:
        return Transient(code, detail)
    if status == 401 and code:
        return Rejected(401, "not_signed_in", _NOT_SIGNED_IN.format(url=url))
    if code and detail != _NO_PAGE and status != 405:
        return Rejected(status, code, detail)
    if code:
        return Permanent("server_too_old", _TOO_OLD.format(url=url))
    is_redirect = 300 <= status < 400
    why = "redirects: give the address that it redirects to" if is_redirect else f"{_NOT_HOLDFAST} ({status})"
    return Permanent("server_unknown", f"{url} {why}.")


def _problem_of(content: bytes) -> tuple[str, str]:
    """Return code and detail of a problem (RFC 9457); "" of anything else."""
    try:
        problem = json.loads(content)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(problem, dict):
        return "", ""
    code, detail = problem.get("code"), problem.get("detail")
    return (code, detail) if isinstance(code, str) and isinstance(detail, str) else ("", "")
