"""Correct a webhook in quarantine: replay it with a body that a person edited. The original stays as it came."""

import asyncio

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.intake import IntakeResult
from service.jobs import corrections
from service.jobs.corrections import kept_headers
from service.operate.replay import replay_webhook
from service.postgres.email_tables import QuarantinedWebhook
from service.resources import Resources
from service.zendesk import parsing
from service.zendesk.body import Unreadable
from service.zendesk.payloads import Ignored

log = structlog.get_logger()


async def correct(res: Resources, webhook_id: int, actor: str, body: bytes) -> IntakeResult:
    """Keep a corrected body beside the original, and make an e-mail of it.

    Safe to repeat: after a crash, a replay uses the body that was kept. Raises Rejected if there is no such webhook
    (404), if it was replayed, or another correction is accepted (409), if the body is too large (413), or if it still
    is no e-mail (409, with the code of the mistake); then nothing is kept.
    """
    most = res.settings.max_webhook_bytes
    if len(body) > most:
        raise Rejected(413, "too_large", f"A body may have {most:,} bytes.")
    original, headers = await _original(res, webhook_id)
    if body == original:
        return await replay_webhook(res, webhook_id, actor)
    await asyncio.to_thread(_check, body, headers)
    accepted = await res.run(lambda conn: corrections.keep(conn, webhook_id, actor, body))
    if accepted is None:
        raise Rejected(409, "already_replayed", f"Webhook {webhook_id} was replayed.")
    if accepted.body != body:
        raise Rejected(
            409, "already_corrected", f"Webhook {webhook_id} has a correction by {accepted.corrected_by}."
        )
    log.info("webhook_corrected", quarantine=webhook_id)
    return await replay_webhook(res, webhook_id, actor)


async def _original(res: Resources, webhook_id: int) -> tuple[bytes, list[list[str]]]:
    """Return body and headers; raises Rejected if there is no such webhook (404), or it was replayed (409)."""

    async def load(conn: AsyncConnection) -> tuple[bytes, list[list[str]], bool]:
        row = QuarantinedWebhook
        query = select(row.raw_body, row.raw_headers, row.replayed_at.is_not(None)).where(
            row.id == webhook_id
        )
        found = (await conn.execute(query)).one_or_none()
        if found is None:
            raise Rejected(404, "webhook_not_found", f"There is no quarantined webhook {webhook_id}.")
        return found[0], found[1] or [], found[2]

    body, headers, is_replayed = await res.run(load)
    if is_replayed:
        raise Rejected(409, "already_replayed", f"Webhook {webhook_id} was replayed.")
    return body, headers


def _check(body: bytes, headers: list[list[str]]) -> None:
    """Raise Rejected (409) if today's parser makes no e-mail of a body."""
    try:
        email = parsing.read(parsing.headers_of(kept_headers(headers)), body)
    except Unreadable as exc:
        raise Rejected(409, exc.code, exc.message) from exc
    if isinstance(email, Ignored):
        raise Rejected(409, "event_not_used", f"Events of this type are not used: {email.event_type}.")
