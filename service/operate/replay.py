"""Replay a stored webhook: one in quarantine, or an ignored one, becomes an e-mail, once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import structlog
from sqlalchemy import BigInteger, Text, delete, func, literal, null, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent, Rejected
from service.intake import REQUEST, IntakeResult, arrival_of, body_key, dispatch, result_of, with_column
from service.jobs.arrival import Arrival, Recorded, is_announced, is_recorded, receive
from service.jobs.corrections import accepted, refuse
from service.jobs.retries import record_acts
from service.jobs.waiting import lock
from service.postgres.email_tables import IgnoredWebhook, QuarantinedWebhook
from service.postgres.engine import refused_row, transaction
from service.resources import Resources
from service.zendesk import parsing, payloads
from service.zendesk.body import Unreadable

What = Literal["quarantined", "ignored"]
StoredWebhook = type[QuarantinedWebhook] | type[IgnoredWebhook]
_TABLES: Mapping[str, StoredWebhook] = {"quarantined": QuarantinedWebhook, "ignored": IgnoredWebhook}
_NAMES = {"quarantined": "quarantine", "ignored": "ignored"}  # in the log

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Act:
    """The person who replays a webhook, the bulk retry, and the correction."""

    actor: str
    bulk_retry_id: int | None
    reason: str | None = None


async def replay_webhook(
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
        dispatch(res, recorded)
    return result


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
        return result_of(recorded), recorded


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
    keys += [webhook["idempotency_key"], body_key(body)]
    return await is_recorded(conn, [Arrival({**webhook, "idempotency_key": key}) for key in keys])


async def _receive(conn: AsyncConnection, webhook: Mapping[str, Any], sync_status: str) -> Recorded:
    """Record a stored webhook as an e-mail, although another e-mail may have its key."""
    body, headers = webhook["raw_body"], parsing.headers_of(webhook["raw_headers"])
    email = parsing.read(headers, body)
    if isinstance(email, payloads.Ignored):
        raise Permanent("event_not_used", f"Events of this type are not used: {email.event_type}.")
    request = {name: webhook[name] for name in ("received_at", *REQUEST)}
    for key in (payloads.idempotency_key(email, headers, body), body_key(body)):
        arrival = arrival_of(email, {**request, "idempotency_key": key}, sync_status)
        try:
            async with conn.begin_nested() as savepoint:
                (recorded,) = await receive(conn, [arrival])
                if is_merged := recorded.is_new and await is_announced(conn, arrival):
                    await savepoint.rollback()
        except DBAPIError as exc:
            if (refused := refused_row(exc)) is None:
                raise
            raise await with_column(conn, refused, arrival) from exc
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
