"""An invocation becomes an e-mail on record, once; what we cannot read is kept in quarantine."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.database import connect, within
from service.errors import Permanent, Transient
from service.jobs import waiting
from service.metrics import IGNORED_EVENTS, event_type_label
from service.models import IncomingEmail, QuarantinedWebhook
from service.resources import Resources
from service.zendesk import payloads
from service.zendesk.body import Unreadable
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID

# What a webhook may carry to authenticate itself to us, and nobody needs to read again; with Zendesk's
# "API key" the name of the header is the administrator's choice.
SECRET_HEADER = re.compile(r"auth|cookie|token|secret|password|api.?key", re.IGNORECASE)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an invocation; `number` is the id of the e-mail or of the quarantined webhook."""

    status: Literal["accepted", "duplicate", "ignored", "quarantined"]
    number: int | None = None


async def accept(res: Resources, headers: Mapping[str, str], body: bytes) -> Receipt:
    """Commit a request whose signature was good, and see that its job is rung.

    Raises Transient when Postgres has not confirmed the commit within its budget; the sender then
    repeats the request, which is harmless.
    """
    return await within(res.settings.database_seconds, _accept_or_reconnect(res, headers, body))


async def _accept_or_reconnect(res: Resources, headers: Mapping[str, str], body: bytes) -> Receipt:
    try:
        return await _accept(res, headers, body)
    except Transient as exc:
        if exc.code != "database_disconnected":
            raise
    # The pool held a connection from before a restart of Postgres: the next one is new.
    return await _accept(res, headers, body)


async def _accept(res: Resources, headers: Mapping[str, str], body: bytes) -> Receipt:
    request = _request(headers, body)
    try:
        email = payloads.parse(body)
        if isinstance(email, payloads.Ignored):
            IGNORED_EVENTS.labels(event_type_label(email.event_type)).inc()
            return Receipt("ignored")
        key = payloads.idempotency_key(email, headers, body)
        return await _record(res, email, {**request, "idempotency_key": key})
    except (Unreadable, Permanent) as exc:  # Permanent: Postgres cannot hold a value of it
        code, message = exc.code, exc.message
    request["idempotency_key"] = payloads.idempotency_key(None, headers, body)
    async with connect(res.engine) as conn:
        return Receipt("quarantined", await _quarantine(conn, request, code, message))


async def _record(res: Resources, email: payloads.Email, request: dict[str, Any]) -> Receipt:
    row = {
        **request,
        "zendesk_ticket_id": email.ticket_id,
        "from_email": email.from_email,
        "from_name": email.from_name,
        "subject": email.subject,
        "sent_at": email.sent_at,
        "comment_id": email.comment_id,
        "account_id": email.account_id or request["account_id"],
        "attachment_urls": email.attachment_urls,
    }
    files = [
        {
            "position": position,
            "source_url": file.url,
            "file_name": file.file_name,
            "declared_type": file.content_type,
            "declared_size": file.size,
        }
        for position, file in enumerate(email.attachments)
    ]
    async with connect(res.engine) as conn:
        email_id = await waiting.receive(conn, row, files)
        if email_id is None:
            return await _duplicate(conn, row)
    res.dispatcher.ring(waiting.Job(email_id, 1))
    log.info("email_received", email=email_id, invocation=row["invocation_id"], attachments=len(files))
    return Receipt("accepted", email_id)


async def _duplicate(conn: AsyncConnection, row: dict[str, Any]) -> Receipt:
    """Point to the e-mail on record; keep the request all the same if it says something else.

    A template may give one `webhook_id` to different e-mails, and only a person can tell.
    """
    same = IncomingEmail.idempotency_key == row["idempotency_key"]
    equal = IncomingEmail.raw_body == row["raw_body"]
    email_id, is_equal = (await conn.execute(select(IncomingEmail.id, equal).where(same))).one()
    if not is_equal:
        key = _body_key(row["raw_body"])
        message = f"Its key {row['idempotency_key']!r} is that of e-mail {email_id}, its body is not."
        await _quarantine(conn, {**row, "idempotency_key": key}, "key_reused", message)
    return Receipt("duplicate", email_id)


async def _quarantine(conn: AsyncConnection, request: dict[str, Any], code: str, message: str) -> int | None:
    columns = ("idempotency_key", "account_id", "invocation_id", "raw_body", "raw_headers")
    row = {name: request[name] for name in columns} | {"error_code": code, "error": message}
    kept = insert(QuarantinedWebhook).values(**row).on_conflict_do_nothing(index_elements=["idempotency_key"])
    number: int | None = await conn.scalar(kept.returning(QuarantinedWebhook.id))
    if number is not None:
        log.warning("webhook_quarantined", quarantine=number, code=code)
        return number
    same = QuarantinedWebhook.idempotency_key == row["idempotency_key"]
    equal = QuarantinedWebhook.raw_body == row["raw_body"]
    number, is_equal = (await conn.execute(select(QuarantinedWebhook.id, equal).where(same))).one()
    if is_equal:
        return number
    return await _quarantine(conn, {**request, "idempotency_key": _body_key(row["raw_body"])}, code, message)


def _body_key(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _request(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    return {
        "raw_body": body,
        "raw_headers": [
            [name, "[redacted]" if SECRET_HEADER.search(name) else value] for name, value in headers.items()
        ],
        "account_id": _clean(headers.get(ACCOUNT_ID)),
        "invocation_id": _clean(headers.get(INVOCATION_ID)),
    }


def _clean(header: str | None) -> str | None:
    """Make a header fit for a text column: bytes that were not UTF-8 arrive as lone surrogates."""
    return header.encode(errors="replace").decode().replace("\0", "") if header else None
