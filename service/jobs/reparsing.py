"""Reparsing in Postgres: load stored requests with their columns, and update the record of a reparsed e-mail."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    JSON,
    BigInteger,
    Text,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import PROCESSING, Attachment, IncomingEmail, is_listed
from service.postgres.rows import ANNOUNCED, announced_files

_REQUEST = IncomingEmail.__table__.c["id", "raw_body", "raw_headers"]
_READ = IncomingEmail.__table__.c[
    "zendesk_ticket_id",
    "from_email",
    "from_name",
    "subject",
    "sent_at",
    "comment_id",
    "account_id",
    "attachment_urls",
    "reading_hash",
    "identified",
]

FileColumns = Mapping[str, object]  # the columns ANNOUNCED


class StoredRequest(NamedTuple):
    """A stored request, and the columns that were read from its body."""

    email_id: int
    body: bytes
    headers: Sequence[tuple[str, str]]
    columns: Mapping[str, Any]


class RecordChanges(NamedTuple):
    """Changes of a record: columns, corrected files, added files (positions count from 0), positions to remove."""

    columns: Mapping[str, object]
    corrected: Sequence[FileColumns] = ()
    added: Sequence[FileColumns] = ()
    withdrawn: Sequence[int] = ()


class ReparsedRecord(NamedTuple):
    """The columns of a reparsed e-mail that its claim needs."""

    ticket_id: str
    comment_id: str | None
    is_listed: bool
    looked_up: bool
    announced_bytes: int


async def load(conn: AsyncConnection, email_ids: Sequence[int]) -> list[StoredRequest]:
    """Load stored requests in the order of their ids; leave out e-mails without one."""
    theirs = IncomingEmail.id == func.any(literal(email_ids, ARRAY(BigInteger)))
    query = select(*_REQUEST, *_READ).where(theirs, IncomingEmail.raw_body.is_not(None))
    rows = (await conn.execute(query.order_by(IncomingEmail.id))).mappings()
    names = [column.name for column in _READ]
    return [
        StoredRequest(
            row["id"], row["raw_body"], row["raw_headers"] or (), {name: row[name] for name in names}
        )
        for row in rows
    ]


async def update_record(
    conn: AsyncConnection, token: tuple[int, int], changes: RecordChanges
) -> ReparsedRecord | None:
    """Change columns and files of an e-mail in one statement, and mark it as reparsed.

    Changes nothing and returns None where the attempt has lost its claim. Files that were ever stored stay as they are.
    """
    email_id, attempt_number = token
    mine = (
        update(IncomingEmail)
        .where(
            IncomingEmail.id == email_id,
            IncomingEmail.attempt_number == attempt_number,
            text(PROCESSING),
        )
        # Zendesk's API is asked again, too: it may list more files, under newer addresses.
        .values(**changes.columns, reread=False, looked_up_at=None)
        .returning(
            IncomingEmail.id,
            IncomingEmail.zendesk_ticket_id,
            IncomingEmail.comment_id,
            is_listed().label("is_listed"),
            IncomingEmail.looked_up_at.is_not(None).label("looked_up"),
            func.coalesce(func.octet_length(cast(IncomingEmail.attachment_urls, Text)), 0).label("bytes"),
        )
        .cte("mine")
    )
    parts = [
        *([_correct(mine, changes.corrected)] if changes.corrected else ()),
        *([_add(mine, changes.added)] if changes.added else ()),
        *([_withdraw(mine, changes.withdrawn)] if changes.withdrawn else ()),
    ]
    query = select(*mine.c["zendesk_ticket_id", "comment_id", "is_listed", "looked_up", "bytes"]).add_cte(
        *parts
    )
    row = (await conn.execute(query)).one_or_none()
    return ReparsedRecord(*row) if row else None


def _correct(mine: CTE, files: Sequence[FileColumns]) -> CTE:
    file = announced_files(literal(files, JSON))
    values: dict[str, Any] = {name: file.c[name] for name in ANNOUNCED if name != "position"}
    return (
        update(Attachment)
        .where(Attachment.email_id == mine.c.id, Attachment.position == file.c.position, *_never_stored())
        .values(**values, status="pending", error_code=None, error=None)
        .returning(Attachment.position)
        .cte("corrected")
    )


def _add(mine: CTE, files: Sequence[FileColumns]) -> CTE:
    file = announced_files(literal(files, JSON))
    last = (
        select(func.coalesce(func.max(Attachment.position), -1))
        .where(Attachment.email_id == mine.c.id)
        .scalar_subquery()
    )
    others = (file.c[name] for name in ANNOUNCED if name != "position")
    rows = select(mine.c.id, last + 1 + file.c.position, *others).join_from(mine, file, true())
    record = insert(Attachment).from_select(["email_id", *ANNOUNCED], rows)
    return record.returning(Attachment.position).cte("added")


def _withdraw(mine: CTE, positions: Sequence[int]) -> CTE:
    return (
        delete(Attachment)
        .where(
            Attachment.email_id == mine.c.id,
            Attachment.position == func.any(literal(positions, ARRAY(BigInteger))),
            *_never_stored(),
        )
        .returning(Attachment.position)
        .cte("withdrawn")
    )


def _never_stored() -> tuple[Any, ...]:
    return Attachment.status != "stored", Attachment.sha256.is_(None)
