"""The documents of removed e-mails: each replaces a document that the targets may have, and says that it is deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.targets.document import SOURCE, Document

# The value of `status` that tells such a document from that of an e-mail.
DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class RemovedDocument:
    """A document to be replaced, of an e-mail that was removed."""

    key: str
    email_id: int
    version: int
    removed_at: datetime


def make_deleted_document(removed: RemovedDocument) -> Document:
    """Make the document that says that the e-mail is deleted; nothing else is left of it."""
    removed_at = removed.removed_at
    content = {
        "source": SOURCE,
        "email_id": removed.email_id,
        "version": removed.version,
        "status": DELETED,
        "deleted_at": removed_at.replace(microsecond=removed_at.microsecond // 1000 * 1000),
    }
    return Document(removed.key, removed.version, is_first=False, content=content)


async def keys_of_removed(conn: AsyncConnection, keys: Sequence[str]) -> dict[str, bool]:
    """Return those keys that belonged to a removed e-mail, and whether the targets have been told of it."""
    rows = await conn.execute(_KEYS, {"keys": list(keys)})
    return {row.key: row.is_told for row in rows}


async def tell_again(conn: AsyncConnection, keys: Sequence[str]) -> int:
    """Let the targets be told once more of these removed e-mails; return their number."""
    return (await conn.execute(_AGAIN, {"keys": list(keys)})).rowcount


_KEYS = text("""
SELECT document_key AS key, bool_and(target_due_at IS NULL OR target_done_at IS NOT NULL) AS is_told
FROM removed_emails WHERE document_key = ANY(:keys) GROUP BY document_key
""").bindparams(bindparam("keys", type_=ARRAY(Text)))
_AGAIN = text("""
UPDATE removed_emails SET target_due_at = now(), target_done_at = NULL, target_retries = 0
WHERE document_key = ANY(:keys) AND (target_due_at IS NULL OR target_done_at IS NOT NULL)
""").bindparams(bindparam("keys", type_=ARRAY(Text)))
