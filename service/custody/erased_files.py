"""Erases one content from e-mails that stay: their files with it, and originals that contain it."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, Text, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody import objects
from service.jobs.erased import ERASED
from service.jobs.retries import restart_sync
from service.postgres import evidence_log
from service.postgres.email_tables import FINISHED, REVISED, IncomingEmail
from service.storage.spool import hash_of, object_key

_WHY = "This content was erased."


async def erase_file(conn: AsyncConnection, sha256: str, email_ids: Sequence[int], receipt_id: int) -> None:
    """Erase a content from these locked e-mails: the targets get new documents of them.

    The original of such an e-mail is erased, too, and not asked for any more: the file is a part of it.
    """
    given = {"email_ids": list(email_ids), "sha256": sha256}
    files = (await conn.execute(_FILES, given)).all()
    originals = [row for row in await conn.execute(_ORIGINALS, given) if row.original_sha256 is not None]
    for file in files:
        await evidence_log.forget(conn, file.email_id, "stored", file.position)
    for message in originals:
        await evidence_log.forget(conn, message.email_id, "message")
    await evidence_log.restate(conn, [message.email_id for message in originals])
    await request_objects(conn, [sha256, *(message.original_sha256 for message in originals)], receipt_id)
    about = {"files": len(files), "bytes": sum(file.size or 0 for file in files)}
    await conn.execute(_COUNT, {"receipt_id": receipt_id, **about})
    await conn.execute(_REVISE, given)
    synced = IncomingEmail.id.in_(email_ids), IncomingEmail.sync_status != "not_applicable"
    await conn.execute(select(restart_sync(*synced).c.id))


async def request_objects(conn: AsyncConnection, hashes: Sequence[str], receipt_id: int) -> None:
    """Have the objects of contents removed that nobody names any more, and list them in the receipt."""
    if not hashes:
        return
    keys = [object_key(sha256) for sha256 in hashes]
    copies = (await conn.scalars(_DELETE_FINDINGS, {"keys": keys})).all()
    await objects.request(conn, receipt_id, {*hashes, *(hash_of(copy) for copy in copies if copy)})


_IDS = (bindparam("email_ids", type_=ARRAY(BigInteger)), bindparam("sha256", type_=Text()))
_KEYS = bindparam("keys", type_=ARRAY(Text))
# What was in the file is nowhere named: neither its hash nor its type.
_FILES = text(f"""
WITH chosen AS (
    SELECT email_id, position, size FROM attachments WHERE email_id = ANY (:email_ids) AND sha256 = :sha256
)
UPDATE attachments AS file SET status = 'failed', error_code = '{ERASED}', error = '{_WHY}', sha256 = NULL,
    object_key = NULL, size = NULL, detected_type = NULL, stored_at = NULL
FROM chosen WHERE file.email_id = chosen.email_id AND file.position = chosen.position RETURNING chosen.*
""").bindparams(*_IDS)  # noqa: S608 words of ours
# The lock waits for an original that is being saved, and reads it.
_ORIGINALS = text(f"""
WITH chosen AS (
    SELECT email_id, original_sha256 FROM messages
    WHERE email_id = ANY (:email_ids) AND original IS DISTINCT FROM 'not_available' ORDER BY email_id FOR UPDATE
)
UPDATE messages SET original = 'not_available', original_error_code = '{ERASED}', original_due_at = NULL,
    original_sha256 = NULL, original_key = NULL, original_size = NULL
FROM chosen WHERE messages.email_id = chosen.email_id RETURNING chosen.*
""").bindparams(_IDS[0])  # noqa: S608 a word of ours
# Each state of a finished e-mail has its own version in the targets.
_REVISE = text(f"""
UPDATE incoming_emails SET {REVISED} WHERE id = ANY (:email_ids) AND {FINISHED}
""").bindparams(_IDS[0])  # noqa: S608 words of ours
_COUNT = text("UPDATE receipts SET files = files + :files, bytes = bytes + :bytes WHERE id = :receipt_id")
# A verification keeps a copy of a damaged object.
_DELETE_FINDINGS = text("""
DELETE FROM reconciliation_findings
WHERE key = ANY (:keys) OR kind = 'object_damaged' AND detail ->> 'kept_as' = ANY (:keys)
RETURNING CASE WHEN kind = 'object_damaged' THEN detail ->> 'kept_as' END
""").bindparams(_KEYS)
