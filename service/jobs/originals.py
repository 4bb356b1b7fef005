"""Originals that an attempt did not get, for a reason that says nothing of the e-mail: when they are asked for again."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import BigInteger, Boolean, Integer, Interval, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.retries import restart_sync
from service.postgres.email_tables import FINISHED, REVISED, IncomingEmail

# The pause before the first try doubles with each one.
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=6)
# About three days.
MOST_TRIES = 20


class PutOff(NamedTuple):
    """An e-mail whose original is asked for again after a pause; where it was not asked for, only if Zendesk gave any."""

    email_id: int
    pause: timedelta
    is_asked: bool


class DueOriginal(NamedTuple):
    """An e-mail whose original is due to be asked for; after the last try, nobody asks again."""

    email_id: int
    ticket_id: str
    is_last: bool


async def put_off(conn: AsyncConnection, emails: Sequence[PutOff]) -> list[None]:
    """Have the originals of e-mails asked for again, unless they were settled meanwhile."""
    latest = {each.email_id: each for each in sorted(emails)}.values()
    given = {
        "email_ids": [each.email_id for each in latest],
        "pauses": [each.pause for each in latest],
        "are_asked": [each.is_asked for each in latest],
    }
    await conn.execute(_PUT_OFF, given)
    return [None] * len(emails)


async def take_due(conn: AsyncConnection) -> DueOriginal | None:
    """Take the e-mail that is due for longest, and count the try: if the process dies, it is due again."""
    about = {"first": FIRST_PAUSE, "longest": LONGEST_PAUSE, "most": MOST_TRIES}
    row = (await conn.execute(_TAKE, about)).one_or_none()
    return None if row is None else DueOriginal(*row)


async def stop(conn: AsyncConnection, email_ids: Sequence[int]) -> list[None]:
    """Ask for these no more; only another attempt of the e-mail does."""
    await conn.execute(_STOP, {"email_ids": sorted(email_ids)})
    return [None] * len(email_ids)


async def revise(conn: AsyncConnection, email_ids: Sequence[int]) -> None:
    """Begin the syncs of finished e-mails again, with a version of its own: an original has told their date."""
    synced = IncomingEmail.id.in_(email_ids), IncomingEmail.sync_status != "not_applicable"
    if email_ids:
        await conn.execute(_REVISE, {"email_ids": list(email_ids)})
        await conn.execute(select(restart_sync(*synced).c.id))


_IDS = bindparam("email_ids", type_=ARRAY(BigInteger))
# The order makes it a look into the index, also before there are statistics: without an original, a scan reads all rows.
_PUT_OFF = text("""
UPDATE messages SET original_tries = 0, original_due_at = now() + pause
FROM unnest(:email_ids, :pauses, :are_asked) AS given (id, pause, is_asked)
WHERE email_id = id AND original IS NULL
    AND (is_asked OR (
        SELECT original_sha256 FROM messages WHERE original_sha256 IS NOT NULL ORDER BY original_sha256 LIMIT 1
    ) IS NOT NULL)
""").bindparams(
    _IDS,
    bindparam("pauses", type_=ARRAY(Interval)),
    bindparam("are_asked", type_=ARRAY(Boolean)),
)
_TAKE = text("""
WITH due AS (
    SELECT email_id FROM messages WHERE original IS NULL AND original_due_at <= now()
    ORDER BY original_due_at LIMIT 1 FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE messages SET original_tries = original_tries + 1,
        original_due_at = now() + least(:longest, :first * power(2, least(original_tries + 1, 20)))
    FROM due WHERE messages.email_id = due.email_id
    RETURNING messages.email_id, original_tries
)
SELECT email_id, zendesk_ticket_id, original_tries >= :most FROM taken JOIN incoming_emails ON id = email_id
""").bindparams(
    bindparam("first", type_=Interval()),
    bindparam("longest", type_=Interval()),
    bindparam("most", type_=Integer()),
)
_REVISE = text(f"""
UPDATE incoming_emails SET {REVISED}
WHERE id = ANY(:email_ids) AND {FINISHED} AND sync_status <> 'not_applicable'
""").bindparams(_IDS)  # noqa: S608 words of ours
_STOP = text("UPDATE messages SET original_due_at = NULL WHERE email_id = ANY(:email_ids)").bindparams(_IDS)
