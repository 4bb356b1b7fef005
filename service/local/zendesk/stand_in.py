"""A stand-in Zendesk: an account and a CDN on loopback, and the sender of webhooks."""

import asyncio
import base64
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

from service.local.zendesk.access import signed_in, unauthenticated
from service.local.zendesk.account import account
from service.local.zendesk.cdn import cdn
from service.local.zendesk.mail import (
    SUPPORT,
    Email,
    Person,
    WebComment,
    add_email,
    add_web_comment,
    timestamp,
)
from service.local.zendesk.rules import fire
from service.local.zendesk.sender import WebhookResponse, send, sign_headers
from service.local.zendesk.state import (
    AGENT_ID,
    Fault,
    MalwareScan,
    ServedFile,
    StandInState,
    describe,
)

__all__ = ["EMAILS", "Fault", "ServedFile", "WebhookResponse", "Zendesk"]

# Where the stand-in takes e-mails; Zendesk takes them by SMTP.
EMAILS = "/stand-in/emails"


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
        self._firing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._session = await self._open.enter_async_context(ClientSession())
        app = account(self.state)
        app.router.add_post(EMAILS, self._take_email)
        self.state.account_url = await self._serve(app)
        self.state.add_user(AGENT_ID, "Agent", self.email, "admin")
        self.state.cdn_url = await self._serve(cdn(self.state))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._firing:
            task.cancel()
        await asyncio.gather(*self._firing, return_exceptions=True)
        await self._open.aclose()

    async def delivered(self) -> None:
        """Wait until the webhooks of all triggers that fired are delivered or given up."""
        await asyncio.gather(*self._firing)

    @property
    def url(self) -> str:
        return self.state.account_url

    @property
    def cdn_url(self) -> str:
        return self.state.cdn_url

    def add_file(  # noqa: PLR0913 keywords
        self,
        name: str,
        content: bytes,
        *,
        content_type: str = "application/octet-stream",
        faults: Iterable[Fault] = (),
        public: bool = False,
        malware: MalwareScan = "malware_not_found",
    ) -> str:
        """Add a file; return its address, the `content_url`. See also `state.scan`, `redact` and `expire`."""
        token = secrets.token_urlsafe(16)
        file = ServedFile(
            next(self.state.ids), token, name, content, content_type, public, deque(faults), malware
        )
        self.state.files[token] = file
        return self.url + file.path

    def file(self, url: str) -> ServedFile:
        """Return the file of an address, to read its counters or to add faults."""
        return self.state.file(url)

    def add_email(  # noqa: PLR0913 keywords
        self,
        ticket_id: int | str,
        *,
        subject: str = "Invoice for November",
        from_name: str = "Mara Lindqvist",
        from_address: str = "mara@customer.example",
        to: str | Person = SUPPORT,
        cc: Iterable[Person] = (),
        text: str = "Please find the files attached.",
        html: str | None = None,
        attachments: Iterable[str] = (),
        inline: Iterable[str] = (),
        outbound: bool = False,
        public: bool = True,
        message_id: str | None = None,
        created_at: datetime | None = None,
        original: bytes | None = None,
        channel: str | int = "email",
        follows: int | str | None = None,
    ) -> int:
        """Let an e-mail reach a ticket, which is made if new, and its people become users; return the comment's id.

        `attachments` and `inline` are addresses of files; `cid:NAME` in `html` stands for an inline image. With
        `outbound`, an agent wrote it. A person of `cc` without a name is no user, as (None, "x@y.example"). With
        `follows`, the ticket is a follow-up of that closed ticket. `created_at` defaults to now; `original`, which
        `state.gives_originals` serves, to a message made of the other arguments.
        """
        to_name = SUPPORT[0] if to == SUPPORT[1] else None
        email = Email(
            subject=subject,
            sender=(from_name, from_address),
            to=(to_name, to) if isinstance(to, str) else to,
            cc=tuple(cc),
            text=text,
            html=html,
            files=[self.file(url) for url in attachments],
            inline=[self.file(url) for url in inline],
            outbound=outbound,
            public=public,
            message_id=message_id,
            created_at=created_at or datetime.now(UTC),
            original=original,
            channel=channel,
            follows=None if follows is None else str(follows),
        )
        return self._fired(ticket_id, add_email(self.state, str(ticket_id), email))

    def add_comment(  # noqa: PLR0913 keywords
        self,
        ticket_id: int | str,
        *,
        attachments: Iterable[str] = (),
        inline: Iterable[str] = (),
        body: str = "",
        html_body: str | None = None,
        created_at: datetime | None = None,
        channel: str | int = "email",
        author: Person | None = None,
        role: str = "agent",
        cc: Iterable[Person] = (),
        public: bool = True,
        follows: int | str | None = None,
    ) -> int:
        """Add a comment with these files' addresses to a ticket, which is made if new; return its id.

        It is an e-mail of the customer if `channel` is one of e-mails or if the ticket `follows` another; else it is
        a comment by an agent, or by an author of another role.
        """
        if follows is not None or channel in {"email", "mail", 4}:
            name, address = author or ("Mara Lindqvist", "mara@customer.example")
            return self.add_email(
                ticket_id,
                from_name=name or address,
                from_address=address,
                cc=cc,
                text=body,
                html=html_body,
                attachments=attachments,
                inline=inline,
                public=public,
                created_at=created_at,
                channel=channel,
                follows=follows,
            )
        web = WebComment(
            author=author or ("Jana Roth", "jana@acme.example"),
            role=role,
            cc=tuple(cc),
            text=body,
            html=html_body,
            files=[self.file(url) for url in attachments],
            inline=[self.file(url) for url in inline],
            public=public,
            created_at=created_at or datetime.now(UTC),
            channel=channel,
        )
        return self._fired(ticket_id, add_web_comment(self.state, str(ticket_id), web))

    def suspend(  # noqa: PLR0913 keywords
        self,
        *,
        subject: str = "You have won",
        from_name: str = "Mara Lindqvist",
        from_address: str = "mara@customer.example",
        text: str = "Please find the files attached.",
        cause: str = "Detected as spam",
        attachments: Iterable[str] = (),
        message_id: str | None = None,
        created_at: datetime | None = None,
    ) -> int:
        """Let an e-mail be suspended: it reaches no ticket, and only a list shows it; return its id there."""
        number = next(self.state.ids)
        created = timestamp(created_at or datetime.now(UTC))
        self.state.listings.suspended[number] = {
            "id": number,
            "url": f"{self.url}/api/v2/suspended_tickets/{number}.json",
            "author": {"id": None, "name": from_name, "email": from_address},
            "subject": subject,
            "content": text,
            "cause": cause,
            "recipient": SUPPORT[1],
            "ticket_id": None,
            "message_id": message_id or f"<{uuid.uuid4().hex}@customer.example>",
            "via": {"channel": "email", "source": {"from": {"address": from_address}, "to": {}, "rel": None}},
            "attachments": [describe(self.state, self.file(url)) for url in attachments],
            "created_at": created,
            "updated_at": created,
        }
        return number

    def recover(self, suspended_id: int, ticket_id: int | str) -> int:
        """Recover a suspended e-mail into a ticket; return the comment's id."""
        item: dict[str, Any] = self.state.listings.suspended.pop(suspended_id)
        return self.add_email(
            ticket_id,
            subject=item["subject"],
            from_name=item["author"]["name"],
            from_address=item["author"]["email"],
            text=item["content"],
            message_id=item["message_id"],
            attachments=[each["content_url"] for each in item["attachments"]],
        )

    def delete_ticket(self, ticket_id: int | str, *, forever: bool = False) -> None:
        """Delete a ticket; `state.restore_ticket` restores one that is not deleted for ever."""
        self.state.delete_ticket(str(ticket_id), forever=forever)

    def restore_ticket(self, ticket_id: int | str) -> None:
        self.state.restore_ticket(str(ticket_id))

    def announcement(self, ticket_id: int | str, comment_id: int | str, **more: object) -> dict[str, Any]:
        """Return the body of a trigger's webhook as the documentation recommends it: all texts, no content."""
        ticket = self.state.tickets.get(str(ticket_id), {})
        return {
            "ticket_id": str(ticket_id),
            "comment_id": str(comment_id),
            "updated_at": ticket.get("updated_at") or _now(),
            **more,
        }

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

    def _fired(self, ticket_id: int | str, comment_id: int) -> int:
        """Let the triggers fire for the newest comment of a ticket; return its id."""
        if self.state.rules.triggers and self._session is not None:
            comment = self.state.comments[str(ticket_id)][-1]
            task = asyncio.create_task(fire(self.state, self._session, str(ticket_id), comment))
            self._firing.add(task)
            task.add_done_callback(self._firing.discard)
        return comment_id

    async def _take_email(self, request: web.Request) -> web.Response:
        """Take an e-mail from another process, such as `holdfast send`; answer with the body of its webhook.

        Its JSON has arguments of `add_email`, and `files` with name, content type and content in base64.
        """
        if not signed_in(request):
            return unauthenticated()
        given = await request.json()
        ticket_id = given.pop("ticket_id")
        urls = [
            self.add_file(file["name"], base64.b64decode(file["content"]), content_type=file["content_type"])
            for file in given.pop("files")
        ]
        comment_id = self.add_email(ticket_id, attachments=urls, **given)
        return web.json_response(self.announcement(ticket_id, comment_id))

    async def _serve(self, app: web.Application) -> str:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        self._open.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"


def _now() -> str:
    return timestamp(datetime.now(UTC))
