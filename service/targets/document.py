"""The document of a finished e-mail, made of its row and the rows of its files, for other programs to read."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    RowMapping,
    and_,
    bindparam,
    exists,
    func,
    literal,
    or_,
    outerjoin,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import FINISHED, Attachment, Attempt, IncomingEmail, key_of_email
from service.postgres.message_tables import Message
from service.postgres.operation_tables import OperatorAction

# The longest text in a document; a longer one has a link.
MOST_TEXT = 10_000  # characters
# The value of `source` that tells our documents from those of other programs.
SOURCE = "holdfast"

_EMAIL = IncomingEmail.__table__.c[
    "id",
    "attempt_number",
    "zendesk_ticket_id",
    "comment_id",
    "from_email",
    "from_name",
    "subject",
    "sent_at",
    "received_at",
    "started_at",
    "completed_at",
    "processing_status",
    "error_code",
    "processing_error",
    "sync_status",
]
# A message's columns have this prefix in a record.
_MESSAGE_PREFIX = "message_"
_MESSAGE = Message.__table__.c[
    "comment_id",
    "direction",
    "public",
    "subject",
    "from_address",
    "from_name",
    "to",
    "cc",
    "message_id",
    "sent_at",
    "text_size",
]
_FILE = Attachment.__table__.c[
    "email_id",
    "position",
    "file_name",
    "status",
    "declared_type",
    "detected_type",
    "declared_size",
    "size",
    "sha256",
    "object_key",
    "error_code",
    "error",
]

# A row of a file.
FileRow = Mapping[str, Any]
# The address of a file, and its expiry if it has one.
Link = tuple[str, datetime | None]


@dataclass(frozen=True, slots=True)
class EmailRecord:
    """The rows of a finished e-mail and its files, read in one statement."""

    email: RowMapping
    files: Sequence[FileRow]

    @property
    def email_id(self) -> int:
        return int(self.email["id"])

    @property
    def version(self) -> int:
        """Return the number of the last attempt: each end of a job has a higher one."""
        return int(self.email["attempt_number"])


@dataclass(frozen=True, slots=True)
class Document:
    """A document for the targets: a higher version replaces a lower version of the same key.

    `is_first` is false if the targets may have an earlier version.
    """

    key: str
    version: int
    is_first: bool
    content: Mapping[str, Any]


async def read_records(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, EmailRecord]:
    """Return the finished ones of these e-mails by id; one statement, because a retry may run between two."""
    rows = (await conn.execute(_RECORDS, {"email_ids": list(email_ids)})).mappings()
    return {row["id"]: EmailRecord(row, row["files"] or ()) for row in rows}


async def read_each(conn: AsyncConnection, email_ids: Sequence[int]) -> list[EmailRecord | None]:
    """Return the records in the order of the ids; None for an e-mail that is not finished."""
    records = await read_records(conn, email_ids)
    return [records.get(email_id) for email_id in email_ids]


def _columns() -> Sequence[ColumnElement[Any]]:
    """Return the columns of a record."""
    file = func.json_build_object(*(part for column in _FILE for part in (literal(column.name), column)))
    files = select(func.json_agg(aggregate_order_by(file, Attachment.position), type_=JSON)).where(
        Attachment.email_id == IncomingEmail.id
    )
    message = (column.label(f"{_MESSAGE_PREFIX}{column.name}") for column in _MESSAGE)
    text = func.left(Message.text, MOST_TEXT).label(f"{_MESSAGE_PREFIX}text")
    key = key_of_email().label("idempotency_key")
    return (
        *_EMAIL,
        *message,
        text,
        key,
        _is_first().label("is_first"),
        files.scalar_subquery().label("files"),
    )


def _is_first() -> ColumnElement[bool]:
    """Say whether all attempts before this version were followed by another one, so that no job has ended before.

    Not every end is an attempt that completed or failed: the last of many abandoned ones is one, a claim that Postgres
    refuses or a new version without an attempt leaves none, and a row of another system ended before it came.
    """
    attempt, action = Attempt.__table__.c, OperatorAction.__table__.c
    followed = select(func.count()).where(
        attempt.email_id == IncomingEmail.id,
        attempt.number.between(1, IncomingEmail.attempt_number - 1),
        attempt.outcome.in_(("released", "handed_back")),
    )
    is_retried = exists().where(action.email_id == IncomingEmail.id, action.action == "retry")
    return and_(
        or_(IncomingEmail.attempt_number == followed.scalar_subquery() + 1, _has_no_history()), ~is_retried
    )


def _has_no_history() -> ColumnElement[bool]:
    """Say whether a completed e-mail of ours has no attempt on record: then nothing tells of an earlier end."""
    number = select(func.count()).where(Attempt.email_id == IncomingEmail.id).correlate(IncomingEmail)
    return and_(
        IncomingEmail.processing_status == "completed",
        IncomingEmail.attempt_number > 0,
        IncomingEmail.raw_body.is_not(None),
        number.scalar_subquery() == 0,
    )


def make_document(record: EmailRecord, links: Mapping[int, Link], public_url: str | None = None) -> Document:
    """Make the document of a record; `links` are by position, `public_url` begins the link to a long text.

    Times are in UTC, cut to milliseconds, the precision of BSON.
    """
    email = record.email
    # Documents of e-mails without a fetched message are those of earlier versions, with the same hash.
    message = {} if email["message_direction"] is None else {"message": _message(record, public_url)}
    content = {
        "source": SOURCE,
        "email_id": record.email_id,
        "version": record.version,
        "status": email["processing_status"],
        "error_code": email["error_code"],
        "error": email["processing_error"],
        "ticket_id": email["zendesk_ticket_id"],
        "comment_id": email["comment_id"],
        "from_email": email["from_email"],
        "from_name": email["from_name"],
        "subject": email["subject"],
        "sent_at": _time(email["sent_at"]),
        "received_at": _time(email["received_at"]),
        "started_at": _time(email["started_at"]),
        "completed_at": _time(email["completed_at"]),
        **message,
        "attachments": [_file(file, links.get(file["position"])) for file in record.files],
    }
    return Document(str(email["idempotency_key"]), record.version, email["is_first"], content)


def permanent_link(public_url: str | None, file: FileRow) -> Link:
    """Return the permanent API link of a file; without PUBLIC_URL it has no host."""
    return _address(public_url, file["email_id"], f"attachments/{file['position']}/content"), None


def permanent_links(record: EmailRecord, public_url: str | None) -> dict[int, Link]:
    """Return the permanent links of all stored files by position."""
    stored = (file for file in record.files if file["status"] == "stored")
    return {file["position"]: permanent_link(public_url, file) for file in stored}


def digest(document: Mapping[str, Any], *, with_links: bool = False) -> str:
    """Return the SHA-256 of the comparable part of a document as hexadecimal digits."""
    return hashlib.sha256(
        to_json(comparable(document, with_links=with_links), sort_keys=True).encode()
    ).hexdigest()


def comparable(document: Mapping[str, Any], *, with_links: bool) -> Mapping[str, Any]:
    """Return the comparable part of a document: without its links if they are presigned, so different each time."""
    if with_links:
        return document
    changed: dict[str, Any] = {}
    if isinstance(files := document.get("attachments"), Sequence):
        changed["attachments"] = [_without(file, "url", "url_expires_at") for file in files]
    if "message" in document:
        changed["message"] = _without(document["message"], "text_url")
    return {**document, **changed}


def to_json(document: object, *, sort_keys: bool = False) -> str:
    """Return a document as JSON; times look like 2026-01-31T12:00:00.000Z."""
    return json.dumps(document, default=_serialize, sort_keys=sort_keys, separators=(",", ":"))


def _message(record: EmailRecord, public_url: str | None) -> dict[str, Any]:
    row = {
        name.removeprefix(_MESSAGE_PREFIX): value
        for name, value in record.email.items()
        if name.startswith(_MESSAGE_PREFIX)
    }
    is_cut = len(row["text"].encode()) < row["text_size"]
    return {
        **{name: row[name] for name in ("comment_id", "direction", "public", "subject")},
        "from": {"name": row["from_name"], "address": row["from_address"]},
        **{name: row[name] for name in ("to", "cc", "message_id")},
        "sent_at": _time(row["sent_at"]),
        "text": row["text"],
        "text_url": _address(public_url, record.email_id, "message.txt") if is_cut else None,
    }


def _address(public_url: str | None, email_id: int, path: str) -> str:
    return f"{(public_url or '').rstrip('/')}/api/v1/emails/{email_id}/{path}"


def _without(value: Any, *names: str) -> Any:  # noqa: ANN401 a document of another program holds anything
    if not isinstance(value, Mapping):
        return value
    return {name: part for name, part in value.items() if name not in names}


def _file(file: FileRow, link: Link | None) -> dict[str, Any]:
    url, expires_at = link or (None, None)
    return {
        "position": file["position"],
        "file_name": file["file_name"],
        "status": file["status"],
        "type": file["detected_type"] or file["declared_type"],
        "size": file["size"] if file["size"] is not None else file["declared_size"],
        "sha256": file["sha256"],
        "error_code": file["error_code"],
        "error": file["error"],
        "url": url,
        "url_expires_at": _time(expires_at),
    }


def _time(value: datetime | None) -> datetime | None:
    return None if value is None else value.replace(microsecond=value.microsecond // 1000 * 1000)


def _serialize(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"
    return repr(value)  # a type that only documents of other programs have


_IDS = bindparam("email_ids", type_=ARRAY(BigInteger))
_RECORDS = (
    select(*_columns())
    .select_from(outerjoin(IncomingEmail, Message, Message.email_id == IncomingEmail.id))
    .where(IncomingEmail.id == func.any(_IDS), text(FINISHED))
    .order_by(IncomingEmail.id)
)
