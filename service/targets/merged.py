"""The documents of e-mails that became part of another one: each replaces a document that the targets have."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.targets.document import SOURCE, Document

# The value of `status` that tells such a document from that of an e-mail.
MERGED = "merged"


@dataclass(frozen=True, slots=True)
class Replaced:
    """A document that the targets may have, of an e-mail that became part of `merged_into`."""

    key: str
    email_id: int
    version: int
    merged_at: datetime
    merged_into: int
    merged_into_key: str


async def read_replaced(conn: AsyncConnection, email_ids: Sequence[int]) -> list[list[Replaced]]:
    """Return the documents that are still to be replaced, for each e-mail that the others became part of."""
    found: dict[int, list[Replaced]] = {email_id: [] for email_id in email_ids}
    for row in await conn.execute(_REPLACED, {"email_ids": list(email_ids)}):
        found[row[4]].append(Replaced(*row))
    return [found[email_id] for email_id in email_ids]


def make_merged_document(replaced: Replaced) -> Document:
    """Make the document that says which e-mail this one became part of."""
    merged_at = replaced.merged_at.replace(microsecond=replaced.merged_at.microsecond // 1000 * 1000)
    content = {
        "source": SOURCE,
        "email_id": replaced.email_id,
        "version": replaced.version,
        "status": MERGED,
        "completed_at": merged_at,
        "merged_into": replaced.merged_into,
        "merged_into_key": replaced.merged_into_key,
    }
    return Document(replaced.key, replaced.version, is_first=False, content=content)


async def keys_of_merged(conn: AsyncConnection, keys: Sequence[str]) -> dict[str, bool]:
    """Return those keys that belonged to a merged e-mail, and whether the targets have been told of it."""
    rows = await conn.execute(_KEYS, {"keys": list(keys)})
    return {row.key: row.is_told for row in rows}


# The same expression as `key_of_email`.
_REPLACED = text("""
SELECT merged.idempotency_key, merged.id, merged.version, merged.merged_at, merged.email_id,
    coalesce(email.idempotency_key, concat('holdfast:email:', email.id))
FROM merged_emails AS merged JOIN incoming_emails AS email ON email.id = merged.email_id
WHERE merged.email_id = ANY(:email_ids) AND merged.version IS NOT NULL AND merged.synced_at IS NULL
ORDER BY merged.id
""").bindparams(bindparam("email_ids", type_=ARRAY(BigInteger)))
_KEYS = text("""
SELECT idempotency_key AS key, bool_and(version IS NULL OR synced_at IS NOT NULL) AS is_told
FROM merged_emails WHERE idempotency_key = ANY(:keys) GROUP BY idempotency_key
""").bindparams(bindparam("keys", type_=ARRAY(Text)))
