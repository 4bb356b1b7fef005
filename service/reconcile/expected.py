"""Read the expected state from Postgres: each e-mail's sync state, and the hash of its document."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.config.settings import Settings
from service.postgres.email_tables import UNSYNCED
from service.targets.document import EmailRecord, digest, make_document, permanent_links, read_records

# E-mails per step.
STEP = 1_000
COUNT_CAP = 10_000
# A sync that waits longer than this is overdue.
OVERDUE_HOURS = 1


@dataclass(frozen=True, slots=True)
class SyncState:
    """The sync state of an e-mail: while it stays equal, no sync runs."""

    email_id: int
    key: str
    version: int
    # The next three fields belong to the sync.
    attempt_number: int
    status: str
    error_code: str | None
    is_finished: bool

    @property
    def is_pending(self) -> bool:
        return not self.is_finished or self.status == "pending"


async def bounds(conn: AsyncConnection, since: datetime | None) -> tuple[int, int]:
    """Return the first id received since then, and the id after the last."""
    return tuple((await conn.execute(_BOUNDS, {"since": since})).one())


async def states_from(conn: AsyncConnection, first: int, end: int) -> list[SyncState]:
    """Return the next states with `first` <= id < `end`."""
    return [SyncState(*row) for row in await conn.execute(_NEXT, {"first": first, "end": end})]


async def unsynced_from(conn: AsyncConnection, first: int, end: int) -> list[SyncState]:
    """Return the next states of finished e-mails that are neither synced nor pending."""
    return [SyncState(*row) for row in await conn.execute(_UNSYNCED, {"first": first, "end": end})]


async def states_of(conn: AsyncConnection, email_ids: Sequence[int]) -> list[SyncState]:
    return [SyncState(*row) for row in await conn.execute(_THESE, {"ids": list(email_ids)})]


async def known_keys(conn: AsyncConnection, keys: Sequence[str]) -> set[str]:
    """Return the keys that belong to an e-mail."""
    return set(await conn.scalars(_KNOWN, {"keys": list(keys)}))


async def digests(conn: AsyncConnection, email_ids: Sequence[int], settings: Settings) -> dict[int, str]:
    """Return the hash of the expected document of each finished e-mail."""
    records = await read_records(conn, email_ids)
    return await asyncio.to_thread(_digests, records, settings)


async def count_waiting(conn: AsyncConnection, first: int) -> tuple[int, int, int]:
    """Count pending, overdue and failed syncs from an id on, each up to a cap."""
    return tuple((await conn.execute(_WAITING, {"first": first})).one())


def _digests(records: dict[int, EmailRecord], settings: Settings) -> dict[int, str]:
    has_links, public_url = settings.sync_links == "api", settings.public_url
    made = {
        email_id: make_document(record, permanent_links(record, public_url), public_url)
        for email_id, record in records.items()
    }
    return {email_id: digest(document.content, with_links=has_links) for email_id, document in made.items()}


# The same expression as `key_of_email`.
_KEY = "coalesce(idempotency_key, concat('holdfast:email:', id))"
_STATE = f"""
id, {_KEY}, attempt_number, sync_attempt_number, sync_status, sync_error_code,
    processing_status IN ('completed', 'failed') AS is_finished
FROM incoming_emails
"""
# Ids rise with the time of receipt, except for replayed e-mails, which are old and have new ids. So the span starts
# after the newest e-mail that is too old and was not replayed. Concurrent intakes may get ids out of order by less
# than a minute.
_BOUNDS = text("""
SELECT CASE WHEN :since IS NULL THEN 0 ELSE coalesce((
    SELECT max(id) FROM unnest(ARRAY['received', 'queued', 'processing', 'completed', 'failed']) AS every(status)
    CROSS JOIN LATERAL (
        SELECT id FROM incoming_emails
        WHERE processing_status = every.status AND received_at < :since - interval '1 minute'
            AND NOT EXISTS (SELECT FROM quarantined_webhooks WHERE email_id = incoming_emails.id)
        ORDER BY received_at DESC LIMIT 1
    ) AS newest
), 0) END, coalesce((SELECT max(id) FROM incoming_emails), 0) + 1
""").bindparams(bindparam("since", type_=DateTime(timezone=True)))
_NEXT = text(f"SELECT {_STATE} WHERE id >= :first AND id < :end ORDER BY id LIMIT {STEP}")
_UNSYNCED = text(f"SELECT {_STATE} WHERE {UNSYNCED} AND id >= :first AND id < :end ORDER BY id LIMIT {STEP}")
_THESE = text(f"SELECT {_STATE} WHERE id = ANY(:ids) ORDER BY id").bindparams(
    bindparam("ids", type_=ARRAY(BigInteger))
)
_KNOWN = text("""
SELECT idempotency_key FROM incoming_emails WHERE idempotency_key = ANY(:keys)
UNION ALL
SELECT key FROM unnest(:keys) AS key JOIN incoming_emails ON id = CAST(substring(key FROM '^holdfast:email:([0-9]{1,18})$') AS bigint)
WHERE idempotency_key IS NULL
""").bindparams(bindparam("keys", type_=ARRAY(Text)))
# Limits in subqueries are unknown to the planner, so it scans the indexes in order.
_WAITING = text(f"""
SELECT due.waiting, due.overdue, (
    SELECT count(*) FROM (
        SELECT FROM incoming_emails WHERE sync_status = 'failed' AND id >= :first
        ORDER BY id LIMIT (SELECT {COUNT_CAP})
    ) AS failed
) FROM (
    SELECT count(*) FILTER (WHERE id >= :first) AS waiting, count(*) FILTER (
        WHERE id >= :first AND sync_begun_at < now() - interval '{OVERDUE_HOURS} hours'
    ) AS overdue FROM (
        SELECT id, sync_begun_at FROM incoming_emails
        WHERE sync_status = 'pending' AND processing_status IN ('completed', 'failed')
        ORDER BY sync_due_at LIMIT (SELECT {COUNT_CAP})
    ) AS waits
) AS due
""").bindparams(bindparam("first", type_=BigInteger()))  # noqa: S608 numbers of ours
