"""An invocation becomes an e-mail on record, once; what we cannot read is kept in quarantine."""

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

import structlog
from sqlalchemy import LargeBinary, RowMapping, Text, func, literal, null, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.contextvars import bind_contextvars

from service.errors import Permanent, Rejected, Transient
from service.faultpoints import reach
from service.jobs.arrival import Arrival, receive
from service.jobs.attachments import announced_row
from service.jobs.waiting import Job
from service.postgres.email_tables import IgnoredWebhook, QuarantinedWebhook
from service.postgres.engine import TOO_LONG, connect, run
from service.postgres.operation_tables import OperatorAction
from service.postgres.pool import refusal
from service.resources import Resources
from service.telemetry.metrics import IGNORED_EVENTS, event_type_label
from service.zendesk import payloads, reading
from service.zendesk.body import Unreadable
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID

# What a webhook may carry to authenticate itself to us, and nobody needs to read again; with Zendesk's
# "API key" the name of the header is the administrator's choice.
SECRET_HEADER = re.compile(r"auth|cookie|token|secret|password|api.?key", re.IGNORECASE)

# What is kept of a request, whatever becomes of it.
REQUEST = ("account_id", "invocation_id", "raw_body", "raw_headers", "signature_hash", "late")

MOST_EVENT_TYPE = 200  # characters of one, of which Zendesk's have fifty

Kept = type[QuarantinedWebhook] | type[IgnoredWebhook]
_TABLES: Mapping[str, Kept] = {"quarantined": QuarantinedWebhook, "ignored": IgnoredWebhook}
_NAMES = {"quarantined": "quarantine", "ignored": "ignored"}  # in the log

# The columns that limit the length of a text, as those of a table that was there before Holdfast may do.
_LIMITS = text("""
    SELECT attrelid::regclass::text, attname, atttypmod - 4 FROM pg_attribute
    WHERE attrelid IN ('incoming_emails'::regclass, 'attachments'::regclass)
        AND atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND atttypmod > 4 AND NOT attisdropped
""")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """What became of an invocation; `number` is the id of the e-mail, or of the quarantined or ignored webhook."""

    status: Literal["accepted", "duplicate", "ignored", "quarantined"]
    number: int | None = None


async def accept(
    res: Resources,
    headers: Mapping[str, str],
    body: bytes,
    *,
    signature_hash: bytes | None = None,
    late: bool = False,
) -> IntakeResult:
    """Commit a request whose signature was good, and see that its job is rung.

    A request with a `signature_hash` that is on record is the same invocation, whatever its headers say: they are
    not signed. `late` marks one that was signed outside the tolerated time.

    Raises Transient when Postgres has not confirmed the commit within its budget; the sender then
    repeats the request, which is harmless.
    """
    try:
        async with asyncio.timeout(res.settings.database_seconds):
            return await _accept(
                res,
                headers,
                body,
                {**_request(headers, body), "signature_hash": signature_hash, "late": late},
            )
    except TimeoutError:
        raise refusal() or Transient("database_slow", "Postgres did not confirm it in time.") from None


def invocation_of(headers: Mapping[str, str]) -> str:
    """Give what logs and traces call this request; "" where only its e-mail's key can be that."""
    return _clean(headers.get(INVOCATION_ID)) or ""


def is_full(res: Resources) -> bool:
    """Whether so many wait for Postgres that `accept` would raise Transient."""
    return res.batch.is_full(receive)


async def replay(
    res: Resources, kept_id: int, actor: str, what: Literal["quarantined", "ignored"] = "quarantined"
) -> IntakeResult:
    """Make an e-mail of a request in quarantine, or of an ignored one, with the time at which it came.

    May be repeated, at the same time too, and after an end at any point: the e-mail is committed first, and
    who finds it there marks the request. Raises Rejected if there is no such request (404), or if it still
    is no e-mail (409); one in quarantine then keeps the newest reason.
    """
    table = _TABLES[what]
    async with connect(res.engine) as conn:
        found = await conn.execute(select(*table.__table__.c).where(table.id == kept_id))
        kept = found.mappings().one_or_none()
    if kept is None:
        raise Rejected(404, "webhook_not_found", f"There is no {what} webhook {kept_id}.")
    if kept["replayed_at"] is not None:
        return IntakeResult("duplicate", kept["email_id"])
    try:
        receipt = await _record_anew(res, kept)
    except (Unreadable, Permanent) as exc:
        if what == "quarantined" and (kept["error_code"], kept["error"]) != (exc.code, exc.message):
            await _note(res, table, kept_id, actor, error_code=exc.code, error=exc.message)
        still = f"{what.capitalize()} webhook {kept_id} is still no e-mail: {exc.message}"
        raise Rejected(409, exc.code, still) from exc
    await _note(res, table, kept_id, actor, replayed_at=func.now(), email_id=receipt.number)
    log.info("webhook_replayed", email=receipt.number, status=receipt.status, **{_NAMES[what]: kept_id})
    return receipt


async def _accept(
    res: Resources, headers: Mapping[str, str], body: bytes, request: dict[str, Any]
) -> IntakeResult:
    try:
        email = reading.read(headers, body)
        if isinstance(email, payloads.Ignored):
            return await _ignore(res, request, email.event_type)
        key = payloads.idempotency_key(email, headers, body)
        if not request["invocation_id"]:
            bind_contextvars(invocation=key)
        receipt, is_same = await _record(res, email, {**request, "idempotency_key": key})
    except (Unreadable, Permanent) as exc:  # Permanent: Postgres cannot hold a value of it
        code, message = exc.code, exc.message
    else:
        if not is_same:
            # A template may give one `webhook_id` to different e-mails, and only a person can tell.
            message = f"Its key {key!r} is that of e-mail {receipt.number}, its body is not."
            await _quarantine(res, {**request, "idempotency_key": _body_key(body)}, "key_reused", message)
        return receipt
    request["idempotency_key"] = payloads.idempotency_key(None, headers, body)
    return IntakeResult("quarantined", await _quarantine(res, request, code, message))


async def _record_anew(res: Resources, kept: RowMapping) -> IntakeResult:
    """Record what is in quarantine as the e-mail that it is, though its key may be that of another one."""
    body, headers = kept["raw_body"], reading.headers_of(kept["raw_headers"])
    email = reading.read(headers, body)
    if isinstance(email, payloads.Ignored):
        raise Permanent("event_not_used", f"It is an event of a type that is not used: {email.event_type}.")
    request = {name: kept[name] for name in ("received_at", *REQUEST)}
    for key in (payloads.idempotency_key(email, headers, body), _body_key(body)):
        receipt, is_same = await _record(res, email, {**request, "idempotency_key": key})
        if is_same:
            return receipt
    raise Permanent("key_reused", f"Its body's own key is that of e-mail {receipt.number}, too.")


async def _record(
    res: Resources, email: payloads.Email, request: dict[str, Any]
) -> tuple[IntakeResult, bool]:
    """Record an e-mail, or point to the one that has its key, and tell whether that has its body."""
    row = {
        **request,
        **reading.columns_of(email),
        "account_id": email.account_id or request["account_id"],
        "reading_hash": reading.fingerprint(email),
        "sync_status": res.settings.sync_status,
    }
    files = [announced_row(position, file) for position, file in enumerate(email.attachments)]
    try:
        recorded = await res.batch(receive, Arrival(row, files), size=len(row["raw_body"]))
    except Permanent as exc:
        raise await _with_column(res, exc, row, files) from exc
    if not recorded.is_new:
        return IntakeResult("duplicate", recorded.email_id), recorded.is_same
    email_id = recorded.email_id
    reach(res.settings.fault_points, "after_commit", email.ticket_id)
    res.dispatcher.dispatch(Job(email_id, 1))
    return IntakeResult("accepted", email_id), True


async def _with_column(
    res: Resources, error: Permanent, row: Mapping[str, Any], files: Sequence[Mapping[str, Any]]
) -> Permanent:
    """Name the columns whose limits the texts exceed: Postgres says only that some text is too long."""
    if error.code != TOO_LONG:
        return error
    async with connect(res.engine) as conn:
        limits = (await conn.execute(_LIMITS)).all()
    tables = {"incoming_emails": [row], "attachments": files}
    exceeded = [
        f"{table}.{column}"
        for table, column, most in limits
        if any(isinstance(text := each.get(column), str) and len(text) > most for each in tables[table])
    ]
    about = f"{', '.join(exceeded)}: " if exceeded else ""
    return Permanent(error.code, f"{about}{error.message}")


async def _quarantine(res: Resources, request: dict[str, Any], code: str, message: str) -> int:
    row = {name: request[name] for name in ("idempotency_key", *REQUEST)} | {
        "error_code": code,
        "error": message,
    }
    kept = insert(QuarantinedWebhook).values(**row).on_conflict_do_nothing()  # of its key or its signature

    async def keep(conn: AsyncConnection) -> tuple[int, bool]:
        number = await conn.scalar(kept.returning(QuarantinedWebhook.id))
        if number is not None:
            log.warning("webhook_quarantined", quarantine=number, code=code)
            return number, True
        equal = QuarantinedWebhook.raw_body == row["raw_body"]
        is_signed_so = QuarantinedWebhook.signature_hash == literal(row["signature_hash"], LargeBinary)
        same = or_(is_signed_so, QuarantinedWebhook.idempotency_key == row["idempotency_key"])
        found = select(QuarantinedWebhook.id, equal).where(same).order_by(is_signed_so.desc().nulls_last())
        number, is_same = (await conn.execute(found.limit(1))).one()
        return number, is_same

    number, is_same = await run(res.engine, res.settings.database_seconds, keep)
    if is_same:
        return number
    return await _quarantine(res, {**request, "idempotency_key": _body_key(row["raw_body"])}, code, message)


async def _ignore(res: Resources, request: dict[str, Any], event_type: str) -> IntakeResult:
    """Keep an event that is not used, like all that is answered with a 2xx: some day it may be."""
    row = {name: request[name] for name in REQUEST} | {
        "idempotency_key": _body_key(request["raw_body"]),
        "event_type": event_type[:MOST_EVENT_TYPE],
    }
    number = await res.batch(keep_ignored, row, size=len(row["raw_body"]))
    IGNORED_EVENTS.labels(event_type_label(event_type)).inc()
    return IntakeResult("ignored", number)


async def keep_ignored(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Keep ignored events, each body once; return their ids."""
    # In order, so that two who keep the same events do not wait for each other in a circle.
    ordered = sorted(
        {row["idempotency_key"]: row for row in rows}.values(), key=itemgetter("idempotency_key")
    )
    await conn.execute(insert(IgnoredWebhook).values(ordered).on_conflict_do_nothing())
    keys = [row["idempotency_key"] for row in ordered]
    known = select(IgnoredWebhook.idempotency_key, IgnoredWebhook.id).where(
        IgnoredWebhook.idempotency_key == func.any(literal(keys, ARRAY(Text)))
    )
    ids = {row.idempotency_key: row.id for row in await conn.execute(known)}
    return [ids[row["idempotency_key"]] for row in rows]


async def _note(
    res: Resources,
    table: Kept,
    kept_id: int,
    actor: str,
    **columns: object,
) -> None:
    """Note what a replay found, and whose it was, unless one was done with it before."""
    changed = update(table).where(table.id == kept_id, table.replayed_at.is_(None)).values(**columns)
    done = changed.returning(table.id, table.email_id).cte("done")
    is_quarantined = table is QuarantinedWebhook
    action = select(
        literal(actor),
        literal("replay" if is_quarantined else "replay_ignored"),
        done.c.id if is_quarantined else null(),
        done.c.email_id,
    )
    async with connect(res.engine) as conn:
        columns_of_action = ["actor", "action", "quarantine_id", "email_id"]
        await conn.execute(insert(OperatorAction).from_select(columns_of_action, action.select_from(done)))


def _body_key(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _request(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    return {
        "raw_body": body,
        "raw_headers": [
            [name, "[redacted]" if _is_secret(name) else value] for name, value in headers.items()
        ],
        "account_id": _clean(headers.get(ACCOUNT_ID)),
        "invocation_id": _clean(headers.get(INVOCATION_ID)),
    }


@lru_cache(maxsize=1000)
def _is_secret(name: str) -> bool:
    return bool(SECRET_HEADER.search(name))


def _clean(header: str | None) -> str | None:
    """Make a header fit for a text column: bytes that were not UTF-8 arrive as lone surrogates."""
    return header.encode(errors="replace").decode().replace("\0", "") if header else None
