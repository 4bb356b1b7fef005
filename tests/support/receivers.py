"""Receivers of alerts on loopback: a mail server, and a server for webhooks."""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

USER, PASSWORD = "holdfast", "smtp-pass:word/1"


@dataclass
class MailServer:
    """Keep the mails; `says` has other responses by SMTP command."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    signed_in: int = 0
    says: dict[str, str] = field(default_factory=dict)
    refuses: set[str] = field(default_factory=set)

    @property
    def texts(self) -> list[str]:
        return [mail.get_content().replace("\r\n", "\n") for mail in self.mails]

    async def handle_MAIL(self, *given: Any) -> str:  # noqa: N802 aiosmtpd looks for this name
        _, _, envelope, envelope.mail_from, _ = given
        return self.says.get("MAIL", "250 OK")

    async def handle_RCPT(self, *given: Any) -> str:  # noqa: N802 likewise
        _, _, envelope, address, _ = given
        if address in self.refuses:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return self.says.get("RCPT", "250 OK")

    async def handle_DATA(self, *given: Any) -> str:  # noqa: N802 likewise
        envelope = given[2]
        if "DATA" in self.says:
            return self.says["DATA"]
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        self.recipients += envelope.rcpt_tos
        return "250 OK"

    def sign_in(self, *given: Any) -> AuthResult:
        login: LoginPassword = given[4]
        good = (login.login, login.password) == (USER.encode(), PASSWORD.encode())
        self.signed_in += good
        return AuthResult(success=good, handled=False)


@asynccontextmanager
async def mail_server(
    context: ssl.SSLContext | None = None, *, implicit: bool = False, port: int = 0
) -> AsyncIterator[MailServer]:
    """Run a mail server: with a context it offers STARTTLS, or speaks TLS from the start."""
    mails = MailServer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning of aiosmtpd about login without TLS
        starttls = None if implicit else context

        def protocol() -> SMTP:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return SMTP(
                    mails,
                    hostname="mail.test",
                    tls_context=starttls,
                    authenticator=mails.sign_in if context else None,
                    auth_require_tls=not implicit,
                )

        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, "127.0.0.1", port, ssl=context if implicit else None)
        mails.port = server.sockets[0].getsockname()[1]
        try:
            yield mails
        finally:
            server.close()


@dataclass
class Receiver:
    """Keep the posted bodies; answer with `status`, or never."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    hangs: bool = False


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    it, gone = Receiver(), asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        if it.hangs:
            await gone.wait()
        body = await request.text()
        if 200 <= it.status < 300:
            it.bodies.append(body)
            it.requests.append(dict(request.headers))
        return web.Response(status=it.status, headers=it.headers)

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    it.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks/secret-in-the-path"
    try:
        yield it
    finally:
        gone.set()
        await runner.cleanup()


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """Accept connections, and send nothing."""
    writers = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in writers:
            writer.close()


SECRET = "whsec_bWFueSByYW5kb20gYnl0ZXMgb2YgYSBzZWNyZXQ="
