"""Read stored contents from Postgres by hash: each content once, however many files and messages share it.

A message has one or two: its record, and the original where Zendesk gave it.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, Integer, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

# Contents per statement.
PAGE = 1_000
# In the place of a file's position: the contents of a message come before the files of its e-mail.
RECORD, ORIGINAL = -2, -1
BEFORE_ALL = -3


@dataclass(frozen=True, slots=True)
class Content:
    """A content that Postgres has as stored, and one of its places: a file, or RECORD or ORIGINAL of a message."""

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
    """Return the contents of the next places after this one, by e-mail and position; contents may repeat."""
    given = {"email_id": email_id, "position": position, "most": most}
    return [Content(*row) for row in await conn.execute(_SINCE, given)]


async def oldest_unfinished(conn: AsyncConnection) -> datetime | None:
    """Return when the oldest e-mail with an unfinished job was received; None if all jobs have ended."""
    oldest: datetime | None = await conn.scalar(_OLDEST_UNFINISHED)
    return oldest


# The tables and columns of contents, and what tells those that are stored.
_STORED_FILE = "status = 'stored'"
_STORED_ORIGINAL = "original = 'stored' AND original_sha256 IS NOT NULL"
_SOURCES = (
    ("attachments", "sha256", _STORED_FILE),
    ("messages", "record_sha256", "true"),
    ("messages", "original_sha256", _STORED_ORIGINAL),
)


_NEAREST = """
(SELECT {sha256} AS sha256, email_id FROM {table}
    WHERE {sha256} > {after} AND {sha256} < :end AND {stored} ORDER BY {sha256}, email_id LIMIT 1)
"""


def _next_hash(after: str) -> str:
    """Write the SQL that finds the next hash after another one, with one of its e-mails: a look into each index."""
    looks = (
        _NEAREST.format(table=table, sha256=sha256, stored=stored, after=after)
        for table, sha256, stored in _SOURCES
    )
    nearest = " UNION ALL ".join(looks)
    return f"SELECT sha256, email_id FROM ({nearest}) AS nearest ORDER BY sha256, email_id LIMIT 1"  # noqa: S608 constants of ours


# A loose index scan, because a million e-mails may share one logo.
_BETWEEN = text(f"""
WITH RECURSIVE content AS (
    (SELECT sha256, email_id, 1 AS place FROM ({_next_hash(":after")}) AS first)
    UNION ALL
    SELECT following.sha256, following.email_id, content.place + 1
    FROM content CROSS JOIN LATERAL ({_next_hash("content.sha256")}) AS following
    WHERE content.place < :most
)
SELECT content.sha256, held.size, held.key, content.email_id, held.position
FROM content CROSS JOIN LATERAL (
    SELECT size, object_key AS key, position FROM attachments
    WHERE email_id = content.email_id AND sha256 = content.sha256 AND {_STORED_FILE}
    UNION ALL
    SELECT record_size, record_key, {RECORD} FROM messages
    WHERE email_id = content.email_id AND record_sha256 = content.sha256
    UNION ALL
    SELECT original_size, original_key, {ORIGINAL} FROM messages
    WHERE email_id = content.email_id AND original_sha256 = content.sha256 AND {_STORED_ORIGINAL}
    ORDER BY position LIMIT 1
) AS held
ORDER BY content.sha256
""").bindparams(  # noqa: S608 constants of ours
    bindparam("after", type_=Text()), bindparam("end", type_=Text()), bindparam("most", type_=Integer())
)
_AFTER = "email_id >= :email_id AND (email_id > :email_id OR {} > :position)"
_SINCE = text(f"""
(
    SELECT sha256, size, object_key, email_id, position FROM attachments
    WHERE (email_id, position) > (:email_id, :position) AND sha256 IS NOT NULL AND {_STORED_FILE}
    ORDER BY email_id, position LIMIT :most
) UNION ALL (
    SELECT record_sha256, record_size, record_key, email_id, {RECORD} FROM messages
    WHERE {_AFTER.format(RECORD)} ORDER BY email_id LIMIT :most
) UNION ALL (
    SELECT original_sha256, original_size, original_key, email_id, {ORIGINAL} FROM messages
    WHERE {_AFTER.format(ORIGINAL)} AND {_STORED_ORIGINAL} ORDER BY email_id LIMIT :most
)
ORDER BY email_id, position LIMIT :most
""").bindparams(  # noqa: S608 constants of ours
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
