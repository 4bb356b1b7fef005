"""Read stored contents from Postgres by hash: each content once, however many files share it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, Integer, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

# Contents per statement.
PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Content:
    """A content that Postgres has as stored, and one of its files."""

    sha256: str
    size: int
    key: str
    email_id: int
    position: int = 0


async def contents_between(conn: AsyncConnection, after: str, end: str, most: int = PAGE) -> list[Content]:
    """Return the next contents with `after` < hash < `end`."""
    given = {"after": after, "end": end, "most": most}
    return [Content(*row) for row in await conn.execute(_BETWEEN, given)]


async def contents_since(
    conn: AsyncConnection, email_id: int, position: int, most: int = PAGE
) -> list[Content]:
    """Return the next stored files after this one, by e-mail and position; contents may repeat."""
    given = {"email_id": email_id, "position": position, "most": most}
    return [Content(*row) for row in await conn.execute(_SINCE, given)]


async def known_contents(conn: AsyncConnection, hashes: Sequence[str]) -> set[str]:
    """Return the hashes that belong to a file, also to a file whose object was lost."""
    return set(await conn.scalars(_KNOWN, {"hashes": list(hashes)}))


async def oldest_unfinished(conn: AsyncConnection) -> datetime | None:
    """Return when the oldest e-mail with an unfinished job was received; None if all jobs have ended."""
    oldest: datetime | None = await conn.scalar(_OLDEST_UNFINISHED)
    return oldest


# A loose index scan, because a million e-mails may share one logo.
_BETWEEN = text("""
WITH RECURSIVE content AS (
    (
        SELECT sha256, email_id, 1 AS place FROM attachments
        WHERE sha256 > :after AND sha256 < :end AND status = 'stored' ORDER BY sha256, email_id LIMIT 1
    )
    UNION ALL
    SELECT following.sha256, following.email_id, content.place + 1
    FROM content CROSS JOIN LATERAL (
        SELECT sha256, email_id FROM attachments
        WHERE sha256 > content.sha256 AND sha256 < :end AND status = 'stored' ORDER BY sha256, email_id LIMIT 1
    ) AS following
    WHERE content.place < :most
)
SELECT content.sha256, file.size, file.object_key, content.email_id, file.position
FROM content CROSS JOIN LATERAL (
    SELECT size, object_key, position FROM attachments
    WHERE email_id = content.email_id AND sha256 = content.sha256 AND status = 'stored' ORDER BY position LIMIT 1
) AS file
ORDER BY content.sha256
""").bindparams(
    bindparam("after", type_=Text()), bindparam("end", type_=Text()), bindparam("most", type_=Integer())
)
_SINCE = text("""
SELECT sha256, size, object_key, email_id, position FROM attachments
WHERE (email_id, position) > (:email_id, :position) AND sha256 IS NOT NULL AND status = 'stored'
ORDER BY email_id, position LIMIT :most
""").bindparams(
    bindparam("email_id", type_=BigInteger()),
    bindparam("position", type_=Integer()),
    bindparam("most", type_=Integer()),
)
_OLDEST_UNFINISHED = text("""
SELECT min(first.received_at) FROM unnest(ARRAY['received', 'queued', 'processing']) AS every(status)
CROSS JOIN LATERAL (
    SELECT received_at FROM incoming_emails WHERE processing_status = every.status ORDER BY received_at LIMIT 1
) AS first
""")
_KNOWN = text("""
SELECT hash FROM unnest(:hashes) AS hash WHERE EXISTS (SELECT FROM attachments WHERE sha256 = hash)
""").bindparams(bindparam("hashes", type_=ARRAY(Text)))
