"""The files of an e-mail, and what became of each; written only while its claim is held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Exists,
    bindparam,
    case,
    exists,
    func,
    literal,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from service.errors import HoldfastError
from service.models import Attachment, IncomingEmail
from service.rows import ANNOUNCED, announced_files, arrays_of, rows_of

Held = tuple[int, int]  # an e-mail's id, and the number of the attempt that holds its job

_CONTENT = ("sha256", "size", "detected_type", "object_key")
_MARKED = ("status", *_CONTENT, "error_code", "error")
_MARKS: dict[str, TypeEngine[Any]] = {
    "email_id": BigInteger(),
    "attempt_number": BigInteger(),
    "position": BigInteger(),
    **{name: Attachment.__table__.c[name].type for name in _MARKED},
}


@dataclass(frozen=True, slots=True)
class File:
    """A file as it was announced, and where it stands: pending, stored or failed.

    One that is pending may have been stored, and its object was lost: `sha256` and `object_key` are of that.
    """

    position: int
    source_url: str
    file_name: str | None
    declared_type: str | None
    declared_size: int | None
    status: str
    error_code: str | None
    error: str | None
    sha256: str | None = None
    object_key: str | None = None


class Stored(Protocol):
    """An object in storage, as `storage.put` describes it."""

    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def detected_type(self) -> str | None: ...
    @property
    def key(self) -> str: ...


class Announced(Protocol):
    """A file as Zendesk describes it."""

    @property
    def url(self) -> str: ...
    @property
    def file_name(self) -> str | None: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def size(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Mark:
    """What became of a file: it is stored, it failed, or it is pending still, with an error so far."""

    held: Held
    position: int
    status: str
    stored: Stored | None = None
    error: HoldfastError | None = None


async def files_of(conn: AsyncConnection, email_ids: Sequence[int]) -> list[list[File]]:
    """List the files of each e-mail, in its order."""
    rows = await conn.execute(_FILES, {"email_ids": email_ids})
    files: dict[int, list[File]] = {email_id: [] for email_id in email_ids}
    for email_id, *values in rows:
        files[email_id].append(File(*values))
    return [files[email_id] for email_id in email_ids]


async def announce(conn: AsyncConnection, held: Held, files: Mapping[int, Announced]) -> None:
    """Record files that Zendesk's API told of, by position, and that it was asked.

    At a position that is taken, the file gets its address if it had none. All of it or nothing; nothing if the
    attempt holds the job no longer.
    """
    rows_of_files = [
        {
            "position": position,
            "source_url": file.url,
            "file_name": file.file_name,
            "declared_type": file.content_type,
            "declared_size": file.size,
        }
        for position, file in files.items()
    ]
    announced = announced_files(literal(rows_of_files, JSON))
    noted = (
        update(IncomingEmail)
        .where(_is_held(held), IncomingEmail.id == held[0])
        .values(looked_up_at=func.now())
        .returning(IncomingEmail.id)
        .cte("noted")
    )
    rows = select(noted.c.id, *(announced.c[name] for name in ANNOUNCED)).join_from(noted, announced, true())
    record = insert(Attachment).from_select(["email_id", *ANNOUNCED], rows)
    told = {name: record.excluded[name] for name in ("source_url", "declared_type", "declared_size")}
    await conn.execute(
        record.on_conflict_do_update(
            index_elements=["email_id", "position"],
            set_={
                **told,
                "file_name": func.coalesce(Attachment.file_name, record.excluded.file_name),
                "status": "pending",
                "error_code": null(),
                "error": null(),
            },
            where=Attachment.source_url == "",
        )
    )


async def mark(conn: AsyncConnection, marks: Sequence[Mark]) -> list[bool]:
    """Record what became of files; False where the attempt holds the job no longer."""
    places = set(await conn.scalars(_MARK, arrays_of(_MARKS, [_values(mark) for mark in marks])))
    return [place in places for place in range(1, len(marks) + 1)]


def _values(mark: Mark) -> tuple[object, ...]:
    stored, error = mark.stored, mark.error
    about = (stored.sha256, stored.size, stored.detected_type, stored.key) if stored else (None,) * 4
    why = (error.code, error.message) if error else (None, None)
    return (*mark.held, mark.position, mark.status, *about, *why)


def _is_held(held: tuple[int | ColumnElement[int], int | ColumnElement[int]]) -> Exists:
    email_id, attempt_number = held
    return exists().where(
        IncomingEmail.id == email_id,
        IncomingEmail.processing_status == "processing",
        IncomingEmail.attempt_number == attempt_number,
    )


# Made once: to make a statement takes longer than Postgres does.
_FILES = (
    select(Attachment.email_id, *(Attachment.__table__.c[field.name] for field in fields(File)))
    .where(Attachment.email_id == func.any(bindparam("email_ids", type_=ARRAY(BigInteger))))
    .order_by(Attachment.email_id, Attachment.position)
)
_made = rows_of("mark", _MARKS)
_MARK = (
    update(Attachment)
    .where(
        Attachment.email_id == _made.c.email_id,
        Attachment.position == _made.c.position,
        _is_held((_made.c.email_id, _made.c.attempt_number)),
    )
    .values(
        # What was stored once, and was lost, stays known until something is stored again.
        stored_at=case((_made.c.status == "stored", func.now()), else_=Attachment.stored_at),
        **{
            name: case((_made.c.status == "stored", _made.c[name]), else_=Attachment.__table__.c[name])
            for name in _CONTENT
        },
        **{name: _made.c[name] for name in _MARKED if name not in _CONTENT},
    )
    .returning(_made.c.place)
)
