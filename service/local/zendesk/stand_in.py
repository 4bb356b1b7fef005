"""A stand-in Zendesk: an account and a CDN on loopback, and the sender of webhooks."""

import json
import secrets
import uuid
from collections import deque
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientSession, web

from service.local.zendesk.account import account, describe
from service.local.zendesk.cdn import cdn
from service.local.zendesk.sender import WebhookResponse, send, sign_headers
from service.local.zendesk.state import Fault, ServedFile, StandInState

__all__ = ["Fault", "ServedFile", "WebhookResponse", "Zendesk"]


class Zendesk:
    """Serve files and send webhooks as Zendesk does; `state` holds its files, faults and received requests.

    Set ZENDESK_URL to `url`. Nothing blocks the event loop.
    """

    def __init__(
        self,
        *,
        email: str = "agent@acme.example",
        api_token: str = "stand-in-token",  # noqa: S107 valid only for this stand-in
        secret: str = "stand-in-signing-secret",  # noqa: S107 likewise
        oauth_token: str | None = None,
    ) -> None:
        self.email, self.api_token, self.secret, self.oauth_token = email, api_token, secret, oauth_token
        self.client_id, self.client_secret = "holdfast", "stand-in-client-secret"
        self.state = StandInState(email, api_token, oauth_token, self.client_id, self.client_secret)
        self._open = AsyncExitStack()
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = await self._open.enter_async_context(ClientSession())
        self.state.account_url = await self._serve(account(self.state))
        self.state.cdn_url = await self._serve(cdn(self.state))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    @property
    def url(self) -> str:
        return self.state.account_url

    @property
    def cdn_url(self) -> str:
        return self.state.cdn_url

    def add_file(
        self,
        name: str,
        content: bytes,
        *,
        content_type: str = "application/octet-stream",
        faults: Iterable[Fault] = (),
        public: bool = False,
    ) -> str:
        """Add a file; return its address, the `content_url`."""
        token = secrets.token_urlsafe(16)
        file = ServedFile(next(self.state.ids), token, name, content, content_type, public, deque(faults))
        self.state.files[token] = file
        return self.url + file.path

    def file(self, url: str) -> ServedFile:
        """Return the file of an address, to read its counters or to add faults."""
        return self.state.files[url.split("/")[5]]

    def add_comment(  # noqa: PLR0913 keywords
        self,
        ticket_id: int | str,
        *,
        attachments: Iterable[str] = (),
        inline: Iterable[str] = (),
        body: str = "",
        html_body: str | None = None,
        created_at: datetime | None = None,
    ) -> int:
        """Add a comment with these files' addresses to a ticket, for the comments API; return its id.

        `created_at` defaults to now.
        """
        files = [describe(self.state, self.file(url)) for url in attachments]
        files += [describe(self.state, self.file(url), inline=True) for url in inline]
        comment = {
            "id": next(self.state.ids),
            "type": "Comment",
            "author_id": 1_001,
            "body": body,
            "html_body": f"<p>{body}</p>" if html_body is None else html_body,
            "plain_body": body,
            "public": True,
            "attachments": files,
            "via": {"channel": "email", "source": {"from": {}, "to": {}, "rel": None}},
            "created_at": _format(created_at or datetime.now(UTC)),
        }
        self.state.comments.setdefault(str(ticket_id), []).append(comment)
        return int(str(comment["id"]))

    def payload(
        self, *, ticket_id: int | str = 4711, attachments: Iterable[str] = (), **more: object
    ) -> dict[str, Any]:
        """Return the body of a trigger's webhook, for a new e-mail with these files' addresses."""
        files = [self.file(url) for url in attachments]
        return {
            "ticket_id": ticket_id,
            "subject": "Invoice for November",
            "from_email": "mara@customer.example",
            "from_name": "Mara Lindqvist",
            "body_text": "Please find the files attached.",
            "received_at": _now(),
            "webhook_id": str(uuid.uuid4()),
            "attachments": [
                {
                    "url": self.url + file.path,
                    "filename": file.name,
                    "content_type": file.content_type,
                    "size": len(file.content),
                }
                for file in files
            ],
            **more,
        }

    def event(self, url: str, *, ticket_id: int | str = 4711) -> dict[str, Any]:
        """Return the body of an event for one file that was linked to a comment."""
        file = self.file(url)
        about = {
            "content_type": file.content_type,
            "content_url": url,
            "filename": file.name,
            "id": str(file.id),
            "is_public": True,
        }
        return {
            "account_id": 21978514,
            "id": str(uuid.uuid4()),
            "type": "zen:event-type:ticket.attachment_linked_to_comment",
            "subject": f"zen:ticket:{ticket_id}",
            "time": _now(),
            "zendesk_event_version": "2022-11-06",
            "detail": {"id": str(ticket_id), "status": "OPEN", "tags": None, "via": {"channel": "mail"}},
            "event": {"comment": {"id": str(next(self.state.ids)), "is_public": True, "attachment": about}},
        }

    async def send(
        self,
        url: str,
        payload: dict[str, Any] | bytes,
        *,
        secret: str | None = None,
        headers: dict[str, str | None] | None = None,
        retries: bool = False,
    ) -> WebhookResponse:
        """Post a payload, or a raw body, as a new invocation. Raises the errors of `sender.send`.

        `headers` replace those of Zendesk; None removes one.
        """
        assert self._session is not None, "use it inside `async with`"  # noqa: S101 a mistake of the caller
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        merged = {**sign_headers(body, secret or self.secret), **(headers or {})}
        sent = {name: value for name, value in merged.items() if value is not None}
        return await send(self._session, url, body, sent, retries=retries)

    async def _serve(self, app: web.Application) -> str:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        self._open.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"


def _now() -> str:
    return _format(datetime.now(UTC))


def _format(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
