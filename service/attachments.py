"""The files of an e-mail, and what became of each; written only while its claim is held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import JSON, Exists, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import HoldfastError
from service.models import ANNOUNCED, Attachment, IncomingEmail, announced_files

Held = tuple[int, int]  # an e-mail's id, and the number of the attempt that holds its job


@dataclass(frozen=True, slots=True)
class File:
    """A file as it was announced, and where it stands: pending, stored or failed."""

    position: int
    source_url: str
    file_name: str | None
    declared_type: str | None
    declared_size: int | None
    status: str
    error_code: str | None
    error: str | None


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


async def files_of(conn: AsyncConnection, email_id: int) -> list[File]:
    """List the files in the order of the e-mail."""
    rows = await conn.execute(
        select(
            Attachment.position,
            Attachment.source_url,
            Attachment.file_name,
            Attachment.declared_type,
            Attachment.declared_size,
            Attachment.status,
            Attachment.error_code,
            Attachment.error,
        )
        .where(Attachment.email_id == email_id)
        .order_by(Attachment.position)
    )
    return [File(*row) for row in rows]


async def announce(conn: AsyncConnection, held: Held, files: Sequence[Announced]) -> None:
    """Record files that an attempt found out about, all or none; none if it holds the job no longer."""
    rows_of_files = [
        {
            "position": position,
            "source_url": file.url,
            "file_name": file.file_name,
            "declared_type": file.content_type,
            "declared_size": file.size,
        }
        for position, file in enumerate(files)
    ]
    announced = announced_files(literal(rows_of_files, JSON))
    rows = select(literal(held[0]), *(announced.c[name] for name in ANNOUNCED)).where(_is_held(held))
    record = insert(Attachment).from_select(["email_id", *ANNOUNCED], rows)
    await conn.execute(record.on_conflict_do_nothing())


async def mark_stored(conn: AsyncConnection, held: Held, position: int, stored: Stored) -> bool:
    """Record where a file lies and what it is; False if the attempt holds the job no longer."""
    changes = {
        "status": "stored",
        "stored_at": func.now(),
        "sha256": stored.sha256,
        "size": stored.size,
        "detected_type": stored.detected_type,
        "object_key": stored.key,
        "error_code": None,
        "error": None,
    }
    return await _mark(conn, held, position, changes)


async def mark_unstored(
    conn: AsyncConnection, held: Held, position: int, error: HoldfastError, *, final: bool
) -> bool:
    """Record why a file could not be had; unless that is final, the next attempt tries again."""
    status = "failed" if final else "pending"
    changes = {"status": status, "error_code": error.code, "error": error.message}
    return await _mark(conn, held, position, changes)


async def _mark(conn: AsyncConnection, held: Held, position: int, changes: Mapping[str, object]) -> bool:
    marked = await conn.execute(
        update(Attachment)
        .where(Attachment.email_id == held[0], Attachment.position == position, _is_held(held))
        .values(**changes)
    )
    return marked.rowcount == 1


def _is_held(held: Held) -> Exists:
    email_id, attempt_number = held
    return exists().where(
        IncomingEmail.id == email_id,
        IncomingEmail.processing_status == "processing",
        IncomingEmail.attempt_number == attempt_number,
    )
