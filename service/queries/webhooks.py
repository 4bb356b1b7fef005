"""Webhooks that made no e-mail: in quarantine because they cannot be parsed, or ignored because of their type."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import Field
from sqlalchemy import ColumnElement, Row, RowMapping, TextClause, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import Rejected
from service.postgres.email_tables import (
    ACCEPTED,
    DISMISSED_WEBHOOK,
    IN_QUARANTINE,
    NOT_REPLAYED,
    IgnoredWebhook,
    QuarantinedWebhook,
)
from service.postgres.engine import connect
from service.postgres.rows import brief
from service.postgres.search import inline_number
from service.postgres.selection import WebhookSelection
from service.postgres.webhook_search import conditions
from service.queries.pages import PageFilter, cut
from service.queries.views import View
from service.queries.webhook_views import (
    CorrectionView,
    IgnoredDetail,
    IgnoredPage,
    IgnoredView,
    QuarantineDetail,
    QuarantinePage,
    QuarantineView,
    RequestView,
)
from service.zendesk.mistakes import SEARCHED, guess_of, mistake_in

REPLAYED = "replayed_at IS NOT NULL"

WebhookTable = type[QuarantinedWebhook] | type[IgnoredWebhook]

_NOT_LISTED = {"raw_body", "raw_headers", "idempotency_key", "signature_hash"}


class QuarantineFilter(PageFilter, WebhookSelection):
    """The parameters of a list of quarantined webhooks."""


class WebhookOfEmail(View):
    """A webhook in quarantine that became an e-mail, or that has its key and another body."""

    id: int
    received_at: datetime
    has_same_key: bool
    email_id: int | None  # that it became
    other_email_id: int | None  # that had its key before
    corrected_by: str | None
    corrected_at: datetime | None


class IgnoredFilter(PageFilter):
    """The parameters of a list of ignored webhooks."""

    replayed: bool = Field(False, description="List webhooks that became e-mails instead of the others")


async def list_quarantined(engine: AsyncEngine, wanted: QuarantineFilter) -> QuarantinePage:
    """Return a page of quarantined webhooks, newest first; texts are cut."""
    beginning = func.substring(QuarantinedWebhook.raw_body, 1, inline_number(SEARCHED)).label("beginning")
    columns = [*brief(_listed(QuarantinedWebhook)), beginning]
    rows, cursor = await _list(engine, QuarantinedWebhook, columns, wanted, conditions(wanted))
    views = await asyncio.to_thread(_with_guesses, rows)
    return QuarantinePage(quarantine=views, next_cursor=cursor)


async def get_quarantined(engine: AsyncEngine, quarantine_id: int) -> QuarantineDetail:
    """Return a quarantined webhook with its body, and the mistake in it; raises Rejected (404)."""
    row, request = await _get(engine, QuarantinedWebhook, quarantine_id, "quarantined")
    async with connect(engine) as conn:
        same_key = await conn.scalar(_SAME_KEY, {"key": row["reused_key"]}) if row["reused_key"] else None
        corrected = (await conn.execute(_CORRECTIONS, {"id": quarantine_id})).all()
    body = bytes(row["raw_body"])
    mistake, guess, corrections = await asyncio.to_thread(
        lambda: (mistake_in(body), guess_of(body), [_correction(each, body) for each in corrected])
    )
    return QuarantineDetail(
        **row,
        **request.model_dump(),
        guess=asdict(guess),
        mistake=mistake and asdict(mistake),
        same_key_email_id=same_key,
        corrections=corrections,
    )


async def webhooks_of(engine: AsyncEngine, email_id: int) -> Sequence[WebhookOfEmail]:
    """Return the webhooks in quarantine that became this e-mail, or that share its key, newest first."""
    async with connect(engine) as conn:
        rows = await conn.execute(_OF_EMAIL, {"email_id": email_id})
        return [WebhookOfEmail.model_validate(row) for row in rows]


async def quarantined_ids(
    engine: AsyncEngine, *, code: str | None = None, dismissed: bool = False
) -> Sequence[int]:
    """Return the ids of the webhooks that wait in quarantine, or of the dismissed ones, oldest first.

    With a code, only of those with this error.
    """
    which = DISMISSED_WEBHOOK if dismissed else IN_QUARANTINE
    with_code = () if code is None else (QuarantinedWebhook.error_code == code,)
    return await _ids(engine, QuarantinedWebhook, text(which), *with_code)


async def list_ignored(engine: AsyncEngine, wanted: IgnoredFilter) -> IgnoredPage:
    """Return a page of ignored webhooks, newest first."""
    columns = _listed(IgnoredWebhook)
    which = REPLAYED if wanted.replayed else NOT_REPLAYED
    rows, cursor = await _list(engine, IgnoredWebhook, columns, wanted, [text(which)])
    return IgnoredPage(ignored=[IgnoredView(**row) for row in rows], next_cursor=cursor)


async def get_ignored(engine: AsyncEngine, ignored_id: int) -> IgnoredDetail:
    """Return an ignored webhook with its body; raises Rejected (404)."""
    row, request = await _get(engine, IgnoredWebhook, ignored_id, "ignored")
    return IgnoredDetail(**row, **request.model_dump())


async def ignored_ids(engine: AsyncEngine) -> Sequence[int]:
    """Return the ids of the ignored webhooks that made no e-mail, oldest first."""
    return await _ids(engine, IgnoredWebhook, text(NOT_REPLAYED))


async def _list(
    engine: AsyncEngine,
    table: WebhookTable,
    columns: Sequence[ColumnElement[Any]],
    wanted: PageFilter,
    which: Sequence[ColumnElement[bool] | TextClause],
) -> tuple[Sequence[RowMapping], str | None]:
    query = select(*columns).where(*which)
    if after := wanted.after():
        query = query.where(table.id < after.id)
    query = query.order_by(table.id.desc()).limit(wanted.limit + 1)
    async with connect(engine) as conn:
        return cut((await conn.execute(query)).mappings().all(), wanted.limit)


async def _get(
    engine: AsyncEngine, table: WebhookTable, webhook_id: int, kind: str
) -> tuple[RowMapping, RequestView]:
    query = select(*_listed(table), table.raw_headers, table.raw_body).where(table.id == webhook_id)
    async with connect(engine) as conn:
        row = (await conn.execute(query)).mappings().one_or_none()
    if row is None:
        raise Rejected(404, "webhook_not_found", f"There is no {kind} webhook {webhook_id}.")
    return row, RequestView.of(row["raw_headers"], row["raw_body"])


async def _ids(
    engine: AsyncEngine, table: WebhookTable, *which: ColumnElement[bool] | TextClause
) -> Sequence[int]:
    query = select(table.id).where(*which).order_by(table.id)
    async with connect(engine) as conn:
        return (await conn.scalars(query)).all()


def _with_guesses(rows: Sequence[RowMapping]) -> list[QuarantineView]:
    return [QuarantineView(**row, guess=asdict(guess_of(bytes(row["beginning"])))) for row in rows]


def _correction(row: Row[Any], original: bytes) -> CorrectionView:
    before, after = (hashlib.sha256(body).hexdigest() for body in (original, row.body))
    return CorrectionView(
        at=row.corrected_at,
        by=row.corrected_by,
        sha256=after,
        original_sha256=before,
        body=row.body.decode(errors="replace"),
        error_code=row.error_code,
    )


def _listed(table: WebhookTable) -> Sequence[ColumnElement[Any]]:
    columns = [column for column in table.__table__.c if column.name not in _NOT_LISTED]
    return [*columns, func.octet_length(table.raw_body).label("size")]


_CORRECTIONS = text("""
SELECT corrected_at, corrected_by, body, error_code FROM quarantine_corrections
WHERE quarantine_id = :id ORDER BY id DESC LIMIT 5
""")
# A merge moves the key of an e-mail into the announcements of the one that it became part of.
_WITH_KEY = """
    SELECT id FROM incoming_emails WHERE idempotency_key = {key}
    UNION ALL SELECT email_id FROM announcements WHERE idempotency_key = {key} LIMIT 1
"""
_SAME_KEY = text(_WITH_KEY.format(key=":key"))
_OF_EMAIL = text(f"""
WITH key_of AS (
    SELECT idempotency_key AS key FROM incoming_emails WHERE id = :email_id
    UNION ALL SELECT idempotency_key FROM announcements WHERE email_id = :email_id
), found AS (
    SELECT id, true AS has_same_key FROM quarantined_webhooks WHERE reused_key IN (SELECT key FROM key_of)
    UNION
    SELECT id, reused_key IS NOT NULL FROM quarantined_webhooks WHERE email_id = :email_id
)
SELECT webhook.id, received_at, has_same_key, webhook.email_id,
    ({_WITH_KEY.format(key="webhook.reused_key")}) AS other_email_id, corrected_by, corrected_at
FROM found JOIN quarantined_webhooks AS webhook ON webhook.id = found.id
LEFT JOIN quarantine_corrections AS correction ON quarantine_id = webhook.id AND correction.{ACCEPTED}
ORDER BY webhook.id DESC LIMIT 20
""")  # noqa: S608 words of ours
