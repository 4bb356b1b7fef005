"""Erased content: finds it among given comments and contents, and in e-mails that turn out to be erased."""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

from sqlalchemy import BigInteger, DateTime, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.loose_objects import note_keys
from service.jobs.removed_rows import contents_of, delete_rows
from service.jobs.tickets import TicketKey
from service.jobs.tombstones import bury
from service.jobs.waiting import lock
from service.postgres import evidence_log
from service.postgres.engine import transaction
from service.postgres.held_emails import free_of_holds
from service.postgres.tombstones import (
    SALT,
    author_hashes,
    comment_hashes,
    content_hash,
    is_erased,
    ticket_hashes,
)
from service.storage.spool import object_key
from service.zendesk.messages import CommentMessage

# The code of a file that was erased by its content.
ERASED = "erased"


async def erased_comments(
    conn: AsyncConnection, ticket: TicketKey, comments: Iterable[CommentMessage]
) -> frozenset[str]:
    """Return those of these comments that were erased."""
    rows = [(each.comment_id, each.created_at, each.sender.address) for each in comments]
    if not rows:
        return frozenset()
    columns = dict(zip(("comments", "times", "addresses"), map(list, zip(*rows, strict=True)), strict=True))
    return frozenset(await conn.scalars(_COMMENTS, {**columns, **ticket._asdict()}))


async def erased_contents(conn: AsyncConnection, objects: Mapping[str, str]) -> frozenset[str]:
    """Return the SHA-256 of those contents that were erased, and have their objects removed again.

    `objects` are keys by SHA-256.
    """
    if not objects:
        return frozenset()
    # In the order of keys, as all statements that lock these rows.
    hashes, keys = zip(*sorted(objects.items(), key=itemgetter(1)), strict=True)
    return frozenset(await conn.scalars(_CONTENTS, {"hashes": list(hashes), "keys": list(keys)}))


async def forget(conn: AsyncConnection, email_ids: Sequence[int]) -> None:
    """Delete e-mails that turned out to be erased ones, with all that hangs on them; held ones stay."""
    async with transaction(conn):
        email_ids = await free_of_holds(conn, email_ids) if email_ids else []
        if not email_ids:
            return
        await lock(conn, email_ids, for_delete=True)
        await bury(conn, email_ids, None)
        contents = await contents_of(conn, email_ids)
        await note_keys(conn, {object_key(sha256) for each in contents.values() for sha256 in each.hashes})
        # The targets are told of its document for the last erasure, which has a receipt.
        deleted = await delete_rows(conn, email_ids, int(await conn.scalar(_LAST_RECEIPT) or 0))
        await evidence_log.remove(conn, deleted.email_ids, {"reason": ERASED})


# A webhook comes so long after its comment was made, at most.
AUTHOR_TIME = "interval '1 day'"
_IDS = bindparam("email_ids", type_=ARRAY(BigInteger))
_OF_COMMENT = (":account_id", ":ticket_id", "found.comment_id")
_COMMENTS = text(f"""
SELECT found.comment_id FROM unnest(:comments, :times, :addresses) AS found (comment_id, created_at, address)
WHERE {is_erased(comment_hashes(*_OF_COMMENT))}
    OR {is_erased(ticket_hashes(*_OF_COMMENT[:2]), "found.created_at")}
    OR {is_erased(author_hashes(*_OF_COMMENT[:2], "found.address"), "found.created_at", AUTHOR_TIME)}
    -- A sender's other e-mails in the ticket, of which a request or a message is here, are others.
    AND NOT EXISTS (
        SELECT FROM incoming_emails LEFT JOIN messages ON email_id = id
        WHERE zendesk_ticket_id = :ticket_id AND incoming_emails.comment_id = found.comment_id
            AND (raw_body IS NOT NULL OR email_id IS NOT NULL)
    )
""").bindparams(  # noqa: S608 words of ours
    *(bindparam(name, type_=ARRAY(Text)) for name in ("comments", "addresses")),
    bindparam("times", type_=ARRAY(DateTime(timezone=True))),
    *(bindparam(name, type_=Text()) for name in ("account_id", "ticket_id")),
)
_CONTENTS = text(f"""
WITH erased AS (
    SELECT content.sha256, content.key
    FROM unnest(:hashes, :keys) AS content (sha256, key) JOIN tombstones ON hash = {content_hash("content.sha256")}
    WHERE {SALT} IS NOT NULL
), requested AS (
    -- The receipt of the erasure has counted an object that was removed, and counts it no more.
    INSERT INTO objects_to_remove (key) SELECT key FROM erased
    ON CONFLICT (key) DO UPDATE SET requested_at = now(), number = excluded.number, state = 'waiting', barrier = NULL,
        due_at = now(), removed_at = NULL, reason = NULL,
        receipt_id = CASE WHEN objects_to_remove.state <> 'removed' THEN objects_to_remove.receipt_id END
    WHERE objects_to_remove.state <> 'removing'
)
SELECT sha256 FROM erased
""").bindparams(  # noqa: S608 words of ours
    bindparam("hashes", type_=ARRAY(Text)), bindparam("keys", type_=ARRAY(Text))
)
_LAST_RECEIPT = text("SELECT max(id) FROM receipts WHERE kind = 'erasure'")
