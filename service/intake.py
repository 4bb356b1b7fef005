"""Intake: an invocation is recorded as an e-mail, once; a webhook that cannot be parsed goes into quarantine."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

import structlog
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    LargeBinary,
    Text,
    cast,
    delete,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, Insert, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine
from structlog.contextvars import bind_contextvars

from service.errors import Permanent, Rejected
from service.faultpoints import reach
from service.jobs.arrival import Arrival, Recorded, is_announced, is_recorded, receive
from service.jobs.attachments import announced_row
from service.jobs.corrections import accepted, refuse
from service.jobs.retries import record_acts
from service.jobs.waiting import lock
from service.json_text import json_text
from service.postgres.email_tables import IgnoredWebhook, QuarantinedWebhook
from service.postgres.engine import TOO_LONG, connect, refused_row, transaction, unconfirmed
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

What = Literal["quarantined", "ignored"]
StoredWebhook = type[QuarantinedWebhook] | type[IgnoredWebhook]
_TABLES: Mapping[str, StoredWebhook] = {"quarantined": QuarantinedWebhook, "ignored": IgnoredWebhook}
_NAMES = {"quarantined": "quarantine", "ignored": "ignored"}  # in the log

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


@dataclass(frozen=True, slots=True)
class _Act:
    """The person who replays a webhook, the bulk retry, and the correction."""

    actor: str
    bulk_retry_id: int | None
    reason: str | None = None


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
        other = {**request, "idempotency_key": _body_key(body), "reused_key": key}
        async with _budget(until):
            await _quarantine(res, other, "key_reused", message)
    return result


async def replay(
    res: Resources,
    webhook_id: int,
    actor: str,
    what: What = "quarantined",
    bulk_retry_id: int | None = None,
) -> IntakeResult:
    """Record a quarantined or ignored webhook as an e-mail, with its time of receipt.

    One transaction chooses the body, records the e-mail and marks the webhook, so that a webhook is one e-mail however
    many people act on it, and a crash leaves nothing half done. A body that a person corrected takes the place of the
    original. A webhook about an erased e-mail is deleted. Raises Rejected if there is no such webhook (404), or if it
    still is no e-mail (409); a quarantined one then keeps the newest reason.
    """
    act = _Act(actor, bulk_retry_id)
    done = await res.run(lambda conn: _replay(conn, what, webhook_id, act, res.settings.sync_status))
    if isinstance(done, Unreadable | Permanent):
        still = f"{what.capitalize()} webhook {webhook_id} cannot be replayed: {done.message}"
        raise Rejected(409, done.code, still) from done
    result, recorded = done
    if recorded is not None:
        log.info("webhook_replayed", email=result.number, status=result.status, **{_NAMES[what]: webhook_id})
        _dispatch(res, recorded)
    return result


def is_full(res: Resources) -> bool:
    """Return whether so many requests wait for Postgres that `accept` would raise Transient."""
    return res.batch.is_full(receive)


def invocation_of(headers: Mapping[str, str]) -> str:
    """Return the name of this request in logs and traces; "" where it is the key of its e-mail."""
    return clean(headers.get(INVOCATION_ID, ""))


@asynccontextmanager
async def _budget(until: float | None) -> AsyncIterator[None]:
    """End the block at this time of the loop; raises Transient."""
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        raise unconfirmed() from None


async def _record(
    res: Resources, email: payloads.Email, request: dict[str, Any], until: float | None = None
) -> tuple[IntakeResult, bool]:
    """Record an e-mail and dispatch its job, or find the one with its key; tell whether the body is the same."""
    arrival = _arrival(email, request, res.settings.sync_status)
    try:
        recorded = await res.batch(receive, arrival, len(request["raw_body"]), until)
    except Permanent as exc:
        async with _budget(until), connect(res.engine) as conn:
            raise await _with_column(conn, exc, arrival) from exc
    _dispatch(res, recorded, email.ticket_id)
    return _result(recorded), recorded.is_same


def _arrival(email: payloads.Email, request: Mapping[str, Any], sync_status: str) -> Arrival:
    row = {
        **request,
        **parsing.columns_of(email),
        "account_id": email.account_id or request["account_id"],
        "reading_hash": parsing.fingerprint(email),
        "sync_status": sync_status,
    }
    return Arrival(row, [announced_row(position, file) for position, file in enumerate(email.attachments)])


def _dispatch(res: Resources, recorded: Recorded, ticket_id: str = "") -> None:
    """Dispatch the job of an e-mail that is committed."""
    if recorded.is_new:
        reach(res.settings.fault_points, "after_commit", ticket_id)
    if recorded.job is not None:
        res.dispatcher.dispatch(recorded.job)


def _result(recorded: Recorded) -> IntakeResult:
    if recorded.is_erased:
        return IntakeResult("erased")
    return IntakeResult("accepted" if recorded.is_new else "duplicate", recorded.email_id)


async def _with_column(conn: AsyncConnection, error: Permanent, arrival: Arrival) -> Permanent:
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
        "idempotency_key": _body_key(request["raw_body"]),
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
    return await _quarantine(res, {**request, "idempotency_key": _body_key(row["raw_body"])}, code, message)


async def _replay(
    conn: AsyncConnection, what: What, webhook_id: int, act: _Act, sync_status: str
) -> tuple[IntakeResult, Recorded | None] | Unreadable | Permanent:
    """Replay a stored webhook in one transaction; return an error where it is no e-mail.

    Whoever replays, corrects, dismisses or erases it at the same moment waits for the lock of its row.
    """
    table = _TABLES[what]
    async with transaction(conn):
        this = select(*table.__table__.c).where(table.id == webhook_id).with_for_update(key_share=True)
        found = (await conn.execute(this)).mappings().one_or_none()
        if found is None:
            raise Rejected(404, "webhook_not_found", f"There is no {what} webhook {webhook_id}.")
        webhook = dict(found)
        if webhook["replayed_at"] is not None:
            return IntakeResult("duplicate", webhook["email_id"]), None
        correction = await accepted(conn, webhook_id) if what == "quarantined" else None
        if correction is not None and await _is_recorded(conn, webhook):
            await refuse(conn, correction, "already_replayed")
            correction = None
        chosen = webhook if correction is None else correction.applied_to(webhook)
        try:
            recorded = await _receive(conn, chosen, sync_status)
        except (Unreadable, Permanent) as exc:
            now = {"error_code": exc.code, "error": exc.message}
            if correction is not None:
                await refuse(conn, correction, exc.code)
            elif what == "quarantined" and any(webhook[name] != value for name, value in now.items()):
                await _update_webhook(conn, table, webhook_id, act, now)
            return exc
        if recorded.is_erased:
            await conn.execute(delete(table).where(table.id == webhook_id))
        else:
            if correction is not None:
                act = replace(act, reason=correction.told(webhook["raw_body"]))
            done = {"replayed_at": func.now(), "email_id": recorded.email_id}
            await _update_webhook(conn, table, webhook_id, act, done)
        return _result(recorded), recorded


async def _is_recorded(conn: AsyncConnection, webhook: Mapping[str, Any]) -> bool:
    """Say whether the original request of a webhook is an e-mail already, or was erased.

    It may have been delivered again, and a process of an older version may have been killed before it marked the webhook.
    """
    headers, body = parsing.headers_of(webhook["raw_headers"]), webhook["raw_body"]
    try:
        email = parsing.read(headers, body)
    except Unreadable:
        email = None
    keys = [payloads.idempotency_key(email, headers, body)] if isinstance(email, payloads.Email) else []
    keys += [webhook["idempotency_key"], _body_key(body)]
    return await is_recorded(conn, [Arrival({**webhook, "idempotency_key": key}) for key in keys])


async def _receive(conn: AsyncConnection, webhook: Mapping[str, Any], sync_status: str) -> Recorded:
    """Record a stored webhook as an e-mail, although another e-mail may have its key."""
    body, headers = webhook["raw_body"], parsing.headers_of(webhook["raw_headers"])
    email = parsing.read(headers, body)
    if isinstance(email, payloads.Ignored):
        raise Permanent("event_not_used", f"Events of this type are not used: {email.event_type}.")
    request = {name: webhook[name] for name in ("received_at", *REQUEST)}
    for key in (payloads.idempotency_key(email, headers, body), _body_key(body)):
        arrival = _arrival(email, {**request, "idempotency_key": key}, sync_status)
        try:
            async with conn.begin_nested() as savepoint:
                (recorded,) = await receive(conn, [arrival])
                if is_merged := recorded.is_new and await is_announced(conn, arrival):
                    await savepoint.rollback()
        except DBAPIError as exc:
            if (refused := refused_row(exc)) is None:
                raise
            raise await _with_column(conn, refused, arrival) from exc
        if not recorded.is_same:
            continue
        is_known = not recorded.is_new and not recorded.is_erased
        if is_merged or (is_known and not await lock(conn, [recorded.email_id])):
            # Its e-mail was merged or deleted since: look again what it is.
            return await _receive(conn, webhook, sync_status)
        return recorded
    raise Permanent("key_reused", f"E-mail {recorded.email_id} has the key of this body, but another body.")


async def _update_webhook(
    conn: AsyncConnection, table: StoredWebhook, webhook_id: int, act: _Act, columns: Mapping[str, object]
) -> None:
    """Record the result of a replay and its operator."""
    changed = update(table).where(table.id == webhook_id).values(**columns)
    done = changed.returning(table.id, table.email_id).cte("done")
    is_quarantined = table is QuarantinedWebhook
    row = {
        "actor": literal(act.actor),
        "action": literal("correct" if act.reason else "replay" if is_quarantined else "replay_ignored"),
        "quarantine_id": done.c.id if is_quarantined else null(),
        "email_id": done.c.email_id,
        "bulk_retry_id": literal(act.bulk_retry_id, BigInteger),
        "reason": literal(act.reason, Text),
    }
    recorded, entered = record_acts([*row], select(*row.values()).select_from(done))
    await conn.execute(select(recorded.c.id).add_cte(entered))


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


def _body_key(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _request_columns(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    return {
        "raw_body": body,
        "raw_headers": [
            [name, "[redacted]" if _is_secret(name) else value] for name, value in headers.items()
        ],
        "account_id": clean(headers.get(ACCOUNT_ID, "")) or None,
        "invocation_id": invocation_of(headers) or None,
    }


@lru_cache(maxsize=1000)
def _is_secret(name: str) -> bool:
    return bool(SECRET_HEADER.search(name))


def _arrays(columns: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    texts = [{**row, "raw_headers": json_text(row["raw_headers"])} for row in rows]
    return arrays_of(columns, [[row[name] for name in columns] for row in texts])


def _insert(table: StoredWebhook, columns: Mapping[str, TypeEngine[Any]]) -> Insert:
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
