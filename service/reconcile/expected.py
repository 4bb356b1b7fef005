"""What Postgres says of e-mails: the state of each, and the hash of the document that there should be of it."""

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

# E-mails of one step.
STEP = 1_000
COUNT_CAP = 10_000
# What waits for longer than that, since its job ended or somebody wanted it again, is late.
OVERDUE_HOURS = 1


@dataclass(frozen=True, slots=True)
class State:
    """An e-mail as far as its sync is concerned: while this stays the same, nobody carries it."""

    email_id: int
    key: str
    version: int
    attempt_number: int  # of the sync
    status: str  # of the sync
    error_code: str | None  # of the sync
    is_finished: bool

    @property
    def is_on_its_way(self) -> bool:
        return not self.is_finished or self.status == "pending"


async def bounds(conn: AsyncConnection, since: datetime | None) -> tuple[int, int]:
    """Give the first id of those received since then, and the one after the last."""
    return tuple((await conn.execute(_BOUNDS, {"since": since})).one())


async def states_from(conn: AsyncConnection, first: int, end: int) -> list[State]:
    """Read the next of the e-mails whose ids are from `first` to before `end`."""
    return [State(*row) for row in await conn.execute(_NEXT, {"first": first, "end": end})]


async def unsynced_from(conn: AsyncConnection, first: int, end: int) -> list[State]:
    """Read the next finished e-mails likewise that are neither synced nor on their way."""
    return [State(*row) for row in await conn.execute(_UNSYNCED, {"first": first, "end": end})]


async def states_of(conn: AsyncConnection, email_ids: Sequence[int]) -> list[State]:
    return [State(*row) for row in await conn.execute(_THESE, {"ids": list(email_ids)})]


async def known_keys(conn: AsyncConnection, keys: Sequence[str]) -> set[str]:
    """Return those of these keys that are an e-mail's."""
    return set(await conn.scalars(_KNOWN, {"keys": list(keys)}))


async def digests(conn: AsyncConnection, email_ids: Sequence[int], settings: Settings) -> dict[int, str]:
    """Hash what would be written of each of these that is finished."""
    records = await read_records(conn, email_ids)
    return await asyncio.to_thread(_digests, records, settings)


async def count_waiting(conn: AsyncConnection, first: int) -> tuple[int, int, int]:
    """Count the syncs that wait, that wait for too long, and that failed, from an id on; each up to a cap."""
    return tuple((await conn.execute(_WAITING, {"first": first})).one())


def _digests(records: dict[int, EmailRecord], settings: Settings) -> dict[int, str]:
    has_links = settings.sync_links == "api"
    return {
        email_id: digest(
            make_document(record, permanent_links(record, settings.public_url)).content, with_links=has_links
        )
        for email_id, record in records.items()
    }


# As `key_of_email` has it.
_KEY = "coalesce(idempotency_key, concat('holdfast:email:', id))"
_STATE = f"""
id, {_KEY}, attempt_number, sync_attempt_number, sync_status, sync_error_code,
    processing_status IN ('completed', 'failed') AS is_finished
FROM incoming_emails
"""
# Ids rise with the time of receipt, but for what was replayed out of quarantine: that is old, and its id is new. So
# it is the newest that is too old, and was not replayed, behind which all others are. Whoever came at nearly the same
# time may have a lower id: a minute is longer than any intake takes.
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
# Limits that the planner does not know make it walk the indexes.
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
