"""The files of an e-mail, and what became of each; written only while its claim is held."""

from dataclasses import dataclass

from sqlalchemy import exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.models import Attachment, IncomingEmail


@dataclass(frozen=True, slots=True)
class Pending:
    """A file that is announced and not stored yet."""

    position: int
    source_url: str
    file_name: str | None
    declared_type: str | None
    declared_size: int | None


async def pending(conn: AsyncConnection, email_id: int) -> list[Pending]:
    """List what is still to be fetched, in the order of the e-mail."""
    rows = await conn.execute(
        select(
            Attachment.position,
            Attachment.source_url,
            Attachment.file_name,
            Attachment.declared_type,
            Attachment.declared_size,
        )
        .where(Attachment.email_id == email_id, Attachment.status == "pending")
        .order_by(Attachment.position)
    )
    return [Pending(*row) for row in rows]


async def first_failure(conn: AsyncConnection, email_id: int) -> tuple[str, str, int] | None:
    """Return code and message of the first file that failed for good, and how many did."""
    row = (
        await conn.execute(
            select(Attachment.error_code, Attachment.error, func.count().over())
            .where(Attachment.email_id == email_id, Attachment.status == "failed")
            .order_by(Attachment.position)
            .limit(1)
        )
    ).one_or_none()
    return (row[0] or "unknown", row[1] or "", row[2]) if row else None


async def mark(
    conn: AsyncConnection, email_id: int, attempt_number: int, position: int, **changes: object
) -> bool:
    """Record what became of a file; False if the attempt is no longer the one that holds the job."""
    held = exists().where(
        IncomingEmail.id == email_id,
        IncomingEmail.processing_status == "processing",
        IncomingEmail.attempt_number == attempt_number,
    )
    marked = await conn.execute(
        update(Attachment)
        .where(Attachment.email_id == email_id, Attachment.position == position, held)
        .values(**changes)
    )
    return marked.rowcount == 1
