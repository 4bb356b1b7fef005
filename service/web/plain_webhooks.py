"""The short way of webhooks: a whole and valid one is received without the application around its handler.

aiohttp reads the request and keeps the connection as ever; only routes, middlewares and the general answer are left
out, a fifth of the web process's time. A request with anything unusual, and every error, goes to the application.
"""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion11

from service import intake
from service.errors import Rejected
from service.resources import Resources
from service.web.handling.keys import RES
from service.web.handling.middleware import HSTS, SERVER, is_encrypted_by
from service.web.handling.prefix import Runner as PrefixRunner
from service.web.webhook import FAILURE, WHOLE_BODY, Reception, verify_at_once
from service.zendesk.rules import WEBHOOK_PATH

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    f"Content-Length: %d\r\nDate: %s\r\nServer: {SERVER}\r\n%s\r\n%s"
)
_ENCRYPTED = f"Strict-Transport-Security: {HSTS}\r\n"


class Runner(PrefixRunner):
    """aiohttp's runner of the application, with the short way before it."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.request_handler = _with_short_way(server.request_handler, self.app[RES])
        return server


def _with_short_way(handle: Handler, res: Resources) -> Handler:
    """Return a handler of all requests that gives to `handle`, the application's, all requests that are no plain webhook."""

    async def receive(request: web.BaseRequest) -> web.StreamResponse:
        if not _is_plain(request, res.settings.max_webhook_bytes) or intake.is_full(res):
            return await handle(request)
        body = request.content.read_nowait()
        try:
            proof, signed = verify_at_once(res, request.headers, body)
        except Rejected:  # by the known secrets: there may be newer ones
            request[WHOLE_BODY] = body
            return await handle(request)
        try:
            with Reception(res, request.headers) as reception:
                answer = await reception.save(proof, signed, body)
        except Exception as exc:  # noqa: BLE001 the application logs it and answers
            request[FAILURE] = exc
            return await handle(request)
        return _Receipt(answer, is_encrypted=is_encrypted_by(res.settings, request))

    return receive


def _is_plain(request: web.BaseRequest, most_bytes: int) -> bool:
    """Tell whether a webhook is here as a whole, in the form in which Zendesk and proxies send it."""
    return (
        request.rel_url.raw_path == WEBHOOK_PATH
        and request.method == "POST"
        and request.version == HttpVersion11
        and request.keep_alive
        and (request.content_length or 0) <= most_bytes
        and request.content.is_eof()
        and request.content.exception() is None
        and not _is_unusual(request.headers)
    )


def _is_unusual(headers: Mapping[str, str]) -> bool:
    """Tell whether aiohttp's application does something about one of these headers."""
    return (
        "Expect" in headers
        or "Upgrade" in headers
        or "Transfer-Encoding" in headers
        or "Content-Encoding" in headers
    )


class _Receipt(web.StreamResponse):
    """The answer to a committed webhook, written at once: the same bytes as the application's."""

    def __init__(self, answer: str, *, is_encrypted: bool) -> None:
        super().__init__()
        self._answer = answer
        self._is_encrypted = is_encrypted
        self._writer: AbstractStreamWriter | None = None

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        self._writer = request.writer
        return request.writer

    async def write_eof(self, _data: bytes = b"") -> None:
        assert self._writer is not None  # noqa: S101 aiohttp prepares an answer first
        more = _ENCRYPTED if self._is_encrypted else ""
        await self._writer.write_eof(
            (_HEAD % (len(self._answer), rfc822_formatted_time(), more, self._answer)).encode()
        )
