"""The tables of the other implementations: an e-mail with its state, and its files."""

import os
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import DateTime, ForeignKey, LargeBinary, Text, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from service.zendesk import payloads


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True), str: Text}  # noqa: RUF012 as SQLAlchemy documents it


class Email(Base):
    """An e-mail; the benchmark reads these columns of every service."""

    __tablename__ = "incoming_emails"

    id: Mapped[int] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    zendesk_ticket_id: Mapped[str]
    subject: Mapped[str | None]
    from_email: Mapped[str | None]
    raw_body: Mapped[bytes] = mapped_column(LargeBinary)
    processing_status: Mapped[str] = mapped_column(default="received", index=True)
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    files: Mapped[list["File"]] = relationship(order_by="File.id")


class File(Base):
    """A file of an e-mail."""

    __tablename__ = "attachments"

    id: Mapped[int] = mapped_column(primary_key=True)
    email_id: Mapped[int] = mapped_column(ForeignKey(Email.id), index=True)
    source_url: Mapped[str]
    file_name: Mapped[str | None]
    status: Mapped[str] = mapped_column(default="pending")
    path: Mapped[str | None]
    size: Mapped[int | None]


def database_url(driver: str) -> str:
    return os.environ["DATABASE_URL"].replace("postgresql://", f"postgresql+{driver}://")


def make_email(email: payloads.Email, body: bytes) -> Email:
    files = [File(source_url=file.url, file_name=file.file_name) for file in email.attachments]
    return Email(
        idempotency_key=email.source_id,
        zendesk_ticket_id=email.ticket_id,
        subject=email.subject,
        from_email=email.from_email,
        raw_body=body,
        files=files,
    )


def path_of(file: File) -> Path:
    """Return the path of a stored file."""
    return Path(urlsplit(os.environ["STORAGE_URL"]).path) / f"{file.id}-{file.file_name}"


if __name__ == "__main__":
    import asyncio

    from sqlalchemy.ext.asyncio import create_async_engine

    async def make_tables() -> None:
        engine = create_async_engine(database_url("asyncpg"))
        async with engine.begin() as conn:
            await conn.run_sync(Base.metadata.create_all)
        await engine.dispose()

    asyncio.run(make_tables())
