"""A finished e-mail as other programs read it: one document, made of its row and of those of its files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ColumnElement, RowMapping, bindparam, func, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import FINISHED, Attachment, IncomingEmail, key_of_email
from service.postgres.operation_tables import OperatorAction

# By which a program, and we ourselves, tell our documents from others in the same place.
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

# A file as it is on record.
File = Mapping[str, Any]
# Of a file: where it can be fetched, and until when, where that ends.
Link = tuple[str, datetime | None]


@dataclass(frozen=True, slots=True)
class Record:
    """A finished e-mail and its files, as they are on record at one moment."""

    email: RowMapping
    files: Sequence[File]

    @property
    def email_id(self) -> int:
        return int(self.email["id"])

    @property
    def version(self) -> int:
        """What a later state has a higher number of: each end of a job is that of another attempt."""
        return int(self.email["attempt_number"])


@dataclass(frozen=True, slots=True)
class Document:
    """What is carried: under its key, one of a higher version takes the place of one of a lower version.

    `is_first` unless somebody had the job run again, after which it ended anew.
    """

    key: str
    version: int
    is_first: bool
    content: Mapping[str, Any]


async def read_records(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, Record]:
    """Read those of these e-mails that are finished, by their ids, in one statement: a retry may come between two."""
    rows = (await conn.execute(_RECORDS, {"email_ids": list(email_ids)})).mappings()
    return {row["id"]: Record(row, row["files"] or ()) for row in rows}


async def read_each(conn: AsyncConnection, email_ids: Sequence[int]) -> list[Record | None]:
    """Read likewise, in the order of the ids; None for one that is not finished."""
    records = await read_records(conn, email_ids)
    return [records.get(email_id) for email_id in email_ids]


def _columns() -> Sequence[ColumnElement[Any]]:
    """Give the columns that a record of an e-mail is made of."""
    action = OperatorAction.__table__.c
    retries = select(func.count()).where(action.email_id == IncomingEmail.id, action.action == "retry")
    file = func.json_build_object(*(part for column in _FILE for part in (literal(column.name), column)))
    files = select(func.json_agg(aggregate_order_by(file, Attachment.position), type_=JSON)).where(
        Attachment.email_id == IncomingEmail.id
    )
    key = key_of_email().label("idempotency_key")
    return (*_EMAIL, key, retries.scalar_subquery().label("retries"), files.scalar_subquery().label("files"))


def make_document(record: Record, links: Mapping[int, Link]) -> Document:
    """Write a record as a document, with the links of its files by their positions.

    Times are whole milliseconds, in UTC: BSON knows no finer ones.
    """
    email = record.email
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
        "attachments": [_file(file, links.get(file["position"])) for file in record.files],
    }
    return Document(str(email["idempotency_key"]), record.version, email["retries"] == 0, content)


def permanent_link(public_url: str | None, file: File) -> Link:
    """Make the link to a file by our API, which never changes; without our own address it has no host."""
    place = f"/api/v1/emails/{file['email_id']}/attachments/{file['position']}/content"
    return f"{(public_url or '').rstrip('/')}{place}", None


def permanent_links(record: Record, public_url: str | None) -> dict[int, Link]:
    """Make those of all its files that are stored, by their positions."""
    stored = (file for file in record.files if file["status"] == "stored")
    return {file["position"]: permanent_link(public_url, file) for file in stored}


def digest(document: Mapping[str, Any], *, with_links: bool = False) -> str:
    """Hash what a document says, in hexadecimal digits, as `comparable` gives it."""
    return hashlib.sha256(
        to_json(comparable(document, with_links=with_links), sort_keys=True).encode()
    ).hexdigest()


def comparable(document: Mapping[str, Any], *, with_links: bool) -> Mapping[str, Any]:
    """Give what is compared of a document: its links only if they are permanent; presigned ones are others each time."""
    files = document.get("attachments")
    if with_links or not isinstance(files, Sequence):
        return document
    links = {"url", "url_expires_at"}
    without = [
        {name: value for name, value in file.items() if name not in links}
        if isinstance(file, Mapping)
        else file
        for file in files
    ]
    return {**document, "attachments": without}


def to_json(document: object, *, sort_keys: bool = False) -> str:
    """Write a document as JSON, its times as 2026-01-31T12:00:00.000Z."""
    return json.dumps(document, default=_written, sort_keys=sort_keys, separators=(",", ":"))


def _file(file: File, link: Link | None) -> dict[str, Any]:
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


def _written(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"
    return repr(value)  # something that others put there, and that is in no document of ours


_IDS = bindparam("email_ids", type_=ARRAY(BigInteger))
_RECORDS = (
    select(*_columns()).where(IncomingEmail.id == func.any(_IDS), text(FINISHED)).order_by(IncomingEmail.id)
)
