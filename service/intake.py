"""Intake: an invocation is recorded as an e-mail, once; a webhook that cannot be parsed goes into quarantine."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

import structlog
from sqlalchemy import (
    JSON,
    Boolean,
    LargeBinary,
    Text,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine
from structlog.contextvars import bind_contextvars

from service.errors import Permanent
from service.faultpoints import reach
from service.jobs.arrival import MOST_ACCOUNT, Arrival, Recorded, receive
from service.jobs.attachments import announced_row
from service.json_text import json_text
from service.postgres.email_tables import IgnoredWebhook, QuarantinedWebhook
from service.postgres.engine import TOO_LONG, connect, unconfirmed
from service.postgres.rows import arrays_of, rows_of
from service.postgres.tombstones import is_erased, request_hashes
from service.resources import Resources
from service.telemetry.metrics import IGNORED_EVENTS, event_type_label
from service.zendesk import parsing, payloads
from service.zendesk.body import Unreadable, clean
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID

# Headers with credentials are not stored; with Zendesk's "API key" the administrator chooses the name.
SECRET_HEADER = re.compile(r"auth|cookie|token|secret|password|api.?key", re.IGNORECASE)

# The columns of every stored request.
REQUEST = ("account_id", "invocation_id", "raw_body", "raw_headers", "signature_hash", "late")

MOST_EVENT_TYPE = 200  # characters; Zendesk's event types have about fifty

_COLUMNS: Mapping[str, TypeEngine[Any]] = {
    **dict.fromkeys(("idempotency_key", "account_id", "invocation_id", "raw_headers"), Text()),
    **dict.fromkeys(("raw_body", "signature_hash"), LargeBinary()),
    "late": Boolean(),
}
_QUARANTINED = {**_COLUMNS, **dict.fromkeys(("error_code", "error", "reused_key"), Text())}
_IGNORED = {**_COLUMNS, "event_type": Text()}

# The columns that limit the length of a text, as those of another system's table may.
_LIMITS = text("""
    SELECT attrelid::regclass::text, attname, atttypmod - 4 FROM pg_attribute
    WHERE attrelid IN ('incoming_emails'::regclass, 'attachments'::regclass)
        AND atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND atttypmod > 4 AND NOT attisdropped
""")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """The result for an invocation; `number` is the id of the e-mail, or of the quarantined or ignored webhook.

    Nothing is kept of a request about an e-mail that was erased.
    """

    status: Literal["accepted", "duplicate", "ignored", "quarantined", "erased"]
    number: int | None = None


async def accept(
    res: Resources,
    headers: Mapping[str, str],
    body: bytes,
    *,
    signature_hash: bytes | None = None,
    late: bool = False,
) -> IntakeResult:
    """Commit a request with a valid signature, and dispatch its job.

    A request with a recorded `signature_hash` is the same invocation, whatever its headers say: they are not signed.
    `late` marks a request with a signature outside the tolerated time.

    Raises Transient when Postgres has not confirmed the commit within its budget; the sender then repeats the
    request, and that is harmless.
    """
    request = {**_request_columns(headers, body), "signature_hash": signature_hash, "late": late}
    until = asyncio.get_running_loop().time() + res.settings.database_seconds
    try:
        email = parsing.read(headers, body)
        if isinstance(email, payloads.Ignored):
            return await _ignore(res, request, email.event_type, until)
        key = payloads.idempotency_key(email, headers, body)
        if not request["invocation_id"]:
            bind_contextvars(invocation=key)
        result, is_same = await _record(res, email, {**request, "idempotency_key": key}, until)
    except (Unreadable, Permanent) as exc:  # Permanent: Postgres cannot store a value of it
        async with _budget(until):
            key = payloads.idempotency_key(None, headers, body)
            number = await _quarantine(res, {**request, "idempotency_key": key}, exc.code, exc.message)
        return IntakeResult("erased" if number is None else "quarantined", number)
    if not is_same:
        # A template may give one `webhook_id` to different e-mails, and only a person can tell.
        message = f"E-mail {result.number} has the same key {key!r}, but another body."
        other = {**request, "idempotency_key": body_key(body), "reused_key": key}
        async with _budget(until):
            await _quarantine(res, other, "key_reused", message)
    return result


def is_full(res: Resources) -> bool:
    """Return whether so many requests wait for Postgres that `accept` would raise Transient."""
    return res.batch.is_full(receive)


def invocation_of(headers: Mapping[str, str]) -> str:
    """Return the name of this request in logs and traces; "" where it is the key of its e-mail."""
    return clean(headers.get(INVOCATION_ID, ""))


@asynccontextmanager
async def _budget(until: float) -> AsyncIterator[None]:
    """End the block at this time of the loop; raises Transient."""
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        raise unconfirmed() from None


async def _record(
    res: Resources, email: payloads.Email, request: dict[str, Any], until: float
) -> tuple[IntakeResult, bool]:
    """Record an e-mail and dispatch its job, or find the one with its key; tell whether the body is the same."""
    arrival = arrival_of(email, request, res.settings.sync_status)
    try:
        recorded = await res.batch(receive, arrival, len(request["raw_body"]), until)
    except Permanent as exc:
        async with _budget(until), connect(res.engine) as conn:
            raise await with_column(conn, exc, arrival) from exc
    dispatch(res, recorded, email.ticket_id)
    return result_of(recorded), recorded.is_same


def arrival_of(email: payloads.Email, request: Mapping[str, Any], sync_status: str) -> Arrival:
    """Return what is recorded of an e-mail, with the columns of its request."""
    row = {
        **request,
        **parsing.columns_of(email),
        "account_id": email.account_id or request["account_id"],
        "reading_hash": parsing.fingerprint(email),
        "sync_status": sync_status,
    }
    return Arrival(row, [announced_row(position, file) for position, file in enumerate(email.attachments)])


def dispatch(res: Resources, recorded: Recorded, ticket_id: str = "") -> None:
    """Dispatch the job of an e-mail that is committed."""
    if recorded.is_new:
        reach(res.settings.fault_points, "after_commit", ticket_id)
    if recorded.job is not None:
        res.dispatcher.dispatch(recorded.job)


def result_of(recorded: Recorded) -> IntakeResult:
    """Return what the sender of an e-mail is told."""
    if recorded.is_erased:
        return IntakeResult("erased")
    return IntakeResult("accepted" if recorded.is_new else "duplicate", recorded.email_id)


async def with_column(conn: AsyncConnection, error: Permanent, arrival: Arrival) -> Permanent:
    """Add the columns whose limits are exceeded: Postgres says only that some text is too long."""
    if error.code != TOO_LONG:
        return error
    limits = (await conn.execute(_LIMITS)).all()
    tables = {"incoming_emails": [arrival.columns], "attachments": arrival.files}
    exceeded = [
        f"{table}.{column}"
        for table, column, most in limits
        if any(isinstance(text := each.get(column), str) and len(text) > most for each in tables[table])
    ]
    about = f"{', '.join(exceeded)}: " if exceeded else ""
    return Permanent(error.code, f"{about}{error.message}")


async def _ignore(res: Resources, request: dict[str, Any], event_type: str, until: float) -> IntakeResult:
    """Store an event that is not used, like all requests with a 2xx: a later version may use it."""
    row = {name: request[name] for name in REQUEST} | {
        "idempotency_key": body_key(request["raw_body"]),
        "event_type": event_type[:MOST_EVENT_TYPE],
    }
    number = await res.batch(keep_ignored, row, len(row["raw_body"]), until)
    if number is None:
        return IntakeResult("erased")
    IGNORED_EVENTS.labels(event_type_label(event_type)).inc()
    return IntakeResult("ignored", number)


async def _quarantine(res: Resources, request: dict[str, Any], code: str, message: str) -> int | None:
    """Store a webhook in quarantine, once; return its id. One that was erased is not stored again."""
    row = {name: request[name] for name in ("idempotency_key", *REQUEST)}
    row |= {"error_code": code, "error": message, "reused_key": request.get("reused_key")}
    new = _QUARANTINE.returning(QuarantinedWebhook.id)

    async def store(conn: AsyncConnection) -> tuple[int | None, bool]:
        number = await conn.scalar(new, _arrays(_QUARANTINED, [row]))
        if number is not None:
            log.warning("webhook_quarantined", quarantine=number, code=code)
            return number, True
        has_body = QuarantinedWebhook.raw_body == row["raw_body"]
        has_signature = QuarantinedWebhook.signature_hash == literal(row["signature_hash"], LargeBinary)
        known = or_(has_signature, QuarantinedWebhook.idempotency_key == row["idempotency_key"])
        first = has_signature.desc().nulls_last()
        found = select(QuarantinedWebhook.id, has_body).where(known).order_by(first).limit(1)
        same = (await conn.execute(found)).one_or_none()
        return (same[0], same[1]) if same else (None, True)  # it was erased

    number, is_same = await res.run(store)
    if is_same:
        return number
    return await _quarantine(res, {**request, "idempotency_key": body_key(row["raw_body"])}, code, message)


async def keep_ignored(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """Store ignored events, each body once; return their ids, and None for those that were erased."""
    # Ordered, so that two transactions with the same events do not deadlock.
    ordered = sorted(
        {row["idempotency_key"]: row for row in rows}.values(), key=itemgetter("idempotency_key")
    )
    await conn.execute(_IGNORE, _arrays(_IGNORED, ordered))
    keys = [row["idempotency_key"] for row in ordered]
    known = select(IgnoredWebhook.idempotency_key, IgnoredWebhook.id).where(
        IgnoredWebhook.idempotency_key == func.any(literal(keys, ARRAY(Text)))
    )
    ids = {row.idempotency_key: row.id for row in await conn.execute(known)}
    return [ids.get(row["idempotency_key"]) for row in rows]


def body_key(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _request_columns(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    return {
        "raw_body": body,
        "raw_headers": [
            [name, "[redacted]" if _is_secret(name) else value] for name, value in headers.items()
        ],
        "account_id": _account_of(headers),
        "invocation_id": invocation_of(headers) or None,
    }


def _account_of(headers: Mapping[str, str]) -> str | None:
    """Return the account's id; a proxy may have joined two equal headers.

    A longer one is not Zendesk's, and the header is not signed: the request is taken in as one without it.
    """
    value = clean(headers.get(ACCOUNT_ID, "")).strip()
    if "," in value and len(parts := {part.strip() for part in value.split(",")}) == 1:
        (value,) = parts
    return value if 0 < len(value) <= MOST_ACCOUNT else None


@lru_cache(maxsize=1000)
def _is_secret(name: str) -> bool:
    return bool(SECRET_HEADER.search(name))


def _arrays(columns: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    texts = [{**row, "raw_headers": json_text(row["raw_headers"])} for row in rows]
    return arrays_of(columns, [[row[name] for name in columns] for row in texts])


def _insert(
    table: type[QuarantinedWebhook] | type[IgnoredWebhook], columns: Mapping[str, TypeEngine[Any]]
) -> Insert:
    """Build the statement that stores requests, each once; one that was erased is left out."""
    row = rows_of("request", columns)
    values = {name: cast(row.c[name], JSON) if name == "raw_headers" else row.c[name] for name in columns}
    hashes = request_hashes("request.idempotency_key", "request.signature_hash", "request.raw_body")
    rows = select(*values.values()).where(literal_column(f"NOT {is_erased(hashes)}", Boolean))
    return (
        insert(table).from_select([*values], rows).on_conflict_do_nothing()
    )  # of the key or of the signature


# Built once: building a statement takes longer than running it.
_QUARANTINE = _insert(QuarantinedWebhook, _QUARANTINED)
_IGNORE = _insert(IgnoredWebhook, _IGNORED)
