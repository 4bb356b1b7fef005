"""Loose objects: objects in the storage that may have no name in Postgres. Their notes make sure that none stays unknown.

An object is noted before it is put. The statement that writes a reference to it deletes the note. If the process dies in
between, or writes no reference after all, the note stays. A transaction that makes rows forget objects notes these, too.
`custody/objects` requests the removal of noted objects, and removes those that no row names.
"""

from collections.abc import AsyncIterable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from sqlalchemy import BigInteger, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.config.settings import Settings
from service.postgres.batch import Batcher
from service.postgres.email_tables import FINISHED
from service.postgres.prepared import Prepared
from service.storage import objects
from service.storage.objects import Storage, StoredObject

# A note is due after so many leases. By then, a process that has not named its object has died, and so has its upload.
LEASES = 10
# The objects of a suspended e-mail get their names together, after the last of its files is stored.
OF_NO_EMAIL = timedelta(hours=1)
# While the job of its e-mail has not ended, another attempt may name the object: it is looked at again after this time.
WAIT = timedelta(seconds=30)


class Storing(Protocol):
    """What a put needs of the resources of a process."""

    @property
    def settings(self) -> Settings: ...
    @property
    def batch(self) -> Batcher: ...
    @property
    def storage(self) -> Storage: ...


@dataclass(frozen=True, slots=True)
class Note:
    """An object that is about to be put; without `email_id`, it belongs to no e-mail yet."""

    key: str
    email_id: int | None
    patience: timedelta


async def put(
    res: Storing, chunks: AsyncIterable[bytes], file_name: str | None, email_id: int | None
) -> StoredObject:
    """Note an object, and put it. Whoever writes a reference to it deletes the note, by its number.

    Raises as `objects.put` and `engine.insist` do.
    """
    patience = OF_NO_EMAIL if email_id is None else LEASES * res.settings.lease

    async def keep_note(key: str) -> int:
        return await res.batch.insist(note, Note(key, email_id, patience))

    return await objects.put(res.storage, chunks, file_name, keep_note)


async def note(conn: AsyncConnection, notes: Sequence[Note]) -> list[int]:
    """Note objects before they are put; return the numbers of the notes."""
    given = {
        "keys": [each.key for each in notes],
        "email_ids": [each.email_id for each in notes],
        "pauses": [each.patience for each in notes],
    }
    numbers: dict[tuple[str, int | None], list[int]] = {}
    for key, email_id, number in await _NOTE.fetch(conn, given):
        numbers.setdefault((key, email_id), []).append(number)
    return [numbers[each.key, each.email_id].pop() for each in notes]


async def forget_notes(conn: AsyncConnection, stored: Sequence[StoredObject]) -> None:
    """Delete the notes of objects that the caller's transaction has named."""
    if numbers := [each.note for each in stored if each.note is not None]:
        await conn.execute(_FORGET, {"numbers": numbers})


async def give_up(conn: AsyncConnection, stored: Sequence[StoredObject]) -> list[None]:
    """Have objects removed that an attempt put in vain; those that a row names stay."""
    await note_keys(conn, [each.key for each in stored])
    return [None] * len(stored)


async def note_keys(conn: AsyncConnection, keys: Collection[str]) -> None:
    """Note objects that the caller's transaction makes rows forget; those that another row names stay."""
    await conn.execute(_NOTE_KEYS, {"keys": sorted(keys)})


async def note_named(conn: AsyncConnection, email_ids: Sequence[int]) -> None:
    """Note all objects of e-mails, before the caller's transaction deletes the rows that name them."""
    await conn.execute(_NOTE_NAMED, {"email_ids": list(email_ids)})


async def note_records(conn: AsyncConnection, records: Sequence[tuple[int, StoredObject]]) -> None:
    """Note the records that messages have now, before the caller replaces them by these, given by e-mail."""
    given = {
        "email_ids": [email_id for email_id, _ in records],
        "keys": [record.key for _, record in records],
    }
    await conn.execute(_NOTE_RECORDS, given)


async def note_original(conn: AsyncConnection, email_id: int, original: StoredObject | None) -> None:
    """Note the lost original that a message had, before the caller replaces it by this one; a stored one stays."""
    await conn.execute(_NOTE_ORIGINAL, {"email_id": email_id, "key": original.key if original else None})


async def request_removals(conn: AsyncConnection, limit: int) -> int:
    """Request the removal of objects whose time is over; return their number."""
    return (await conn.execute(_REQUEST, {"limit": limit, "wait": WAIT})).rowcount


_IDS = bindparam("email_ids", type_=ARRAY(BigInteger))
_KEYS = bindparam("keys", type_=ARRAY(Text))
_NOTE = Prepared(
    text("""
INSERT INTO loose_objects (key, email_id, due_at)
SELECT key, email_id, now() + pause FROM unnest(:keys, :email_ids, :pauses) AS given (key, email_id, pause)
RETURNING key, email_id, number
""").bindparams(_KEYS, _IDS, bindparam("pauses", type_=ARRAY(Interval)))
)
# A note that `request_removals` has locked stays: the remover looks for names later, and sees this reference.
_FORGET = text("""
DELETE FROM loose_objects WHERE number IN (
    SELECT number FROM loose_objects WHERE number = ANY(:numbers) FOR UPDATE SKIP LOCKED
)
""").bindparams(bindparam("numbers", type_=ARRAY(BigInteger)))
# The first note may be gone already. A second one does no harm.
_NOTE_KEYS = text("INSERT INTO loose_objects (key) SELECT unnest(:keys)").bindparams(_KEYS)
_NOTE_NAMED = text("""
INSERT INTO loose_objects (key)
SELECT object_key FROM attachments WHERE email_id = ANY(:email_ids) AND object_key IS NOT NULL
UNION
SELECT unnest(ARRAY[record_key, original_key]) FROM messages WHERE email_id = ANY(:email_ids)
EXCEPT SELECT NULL
""").bindparams(_IDS)
_NOTE_RECORDS = text("""
INSERT INTO loose_objects (key)
SELECT record_key FROM unnest(:email_ids, :keys) AS new (email_id, key)
JOIN messages ON messages.email_id = new.email_id AND record_key <> key
""").bindparams(_IDS, _KEYS)
_NOTE_ORIGINAL = text("""
INSERT INTO loose_objects (key) SELECT original_key FROM messages
WHERE email_id = :email_id AND original IS DISTINCT FROM 'stored' AND original_key IS DISTINCT FROM :key
    AND original_key IS NOT NULL
""").bindparams(bindparam("key", type_=Text()))
# An earlier request of the same object is as good as a new one. While the object is being removed, the note waits: the put
# may have come later. After a removal, the object may be there again, so it is removed once more, and until then no
# reference is written.
_REQUEST = text(f"""
WITH due AS (
    SELECT number, key, EXISTS (
        SELECT FROM incoming_emails WHERE id = loose_objects.email_id AND NOT ({FINISHED})
    ) OR EXISTS (
        SELECT FROM objects_to_remove WHERE objects_to_remove.key = loose_objects.key AND state = 'removing'
    ) AS waits
    FROM loose_objects WHERE due_at <= now() ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
), postponed AS (
    UPDATE loose_objects SET due_at = now() + :wait FROM due WHERE loose_objects.number = due.number AND waits
), requested AS (
    INSERT INTO objects_to_remove (key) SELECT DISTINCT key FROM due WHERE NOT waits ORDER BY key
    ON CONFLICT (key) DO UPDATE SET requested_at = now(), number = excluded.number, receipt_id = NULL,
        state = 'removing', due_at = now(), removed_at = NULL
    WHERE objects_to_remove.state = 'removed'
)
DELETE FROM loose_objects USING due WHERE loose_objects.number = due.number AND NOT waits
""").bindparams(  # noqa: S608 a constant of ours
    bindparam("limit", type_=BigInteger()), bindparam("wait", type_=Interval())
)
