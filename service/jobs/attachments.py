"""The files of an e-mail, and what became of each; written only while its claim is held."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    Exists,
    LargeBinary,
    Text,
    bindparam,
    case,
    exists,
    func,
    literal,
    null,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from service.errors import HoldfastError
from service.postgres.email_tables import FINISHED, NOT_CAPTURED, UNREAD, Attachment, IncomingEmail
from service.postgres.rows import ANNOUNCED, announced_files, arrays_of, rows_of

FencingToken = tuple[int, int]  # an e-mail's id, and the number of the attempt that holds its job

_CONTENT = ("sha256", "size", "detected_type", "object_key")
_MARKED = ("status", *_CONTENT, "error_code", "error")
_MARKS: dict[str, TypeEngine[Any]] = {
    "email_id": BigInteger(),
    "attempt_number": BigInteger(),
    "position": BigInteger(),
    **{name: Attachment.__table__.c[name].type for name in _MARKED},
}


@dataclass(frozen=True, slots=True)
class FileRecord:
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


class StoredObject(Protocol):
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
class FileUpdate:
    """What became of a file: it is stored, it failed, or it is pending still, with an error so far."""

    fencing_token: FencingToken
    position: int
    status: str
    stored: StoredObject | None = None
    error: HoldfastError | None = None


async def files_of(conn: AsyncConnection, email_ids: Sequence[int]) -> list[list[FileRecord]]:
    """List the files of each e-mail, in its order."""
    rows = await conn.execute(_FILES, {"email_ids": email_ids})
    files: dict[int, list[FileRecord]] = {email_id: [] for email_id in email_ids}
    for email_id, *values in rows:
        files[email_id].append(FileRecord(*values))
    return [files[email_id] for email_id in email_ids]


async def announce(conn: AsyncConnection, held: FencingToken, files: Mapping[int, Announced]) -> None:
    """Record files that Zendesk's API told of, by position, and that it was asked.

    At a position that is taken, the file gets its address if it had none. All of it or nothing; nothing if the
    attempt holds the job no longer.
    """
    rows_of_files = [announced_row(position, file) for position, file in files.items()]
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


@dataclass(frozen=True, slots=True)
class Listing:
    """What `attachment_urls` of another system lacks on record: files by position, or why it cannot be read.

    `fingerprint` is kept to tell that the list was read. `is_whole` is False where the list does not tell all files.
    """

    email_id: int
    fingerprint: bytes
    missing: Mapping[int, Announced]
    is_whole: bool = True
    problem: str | None = None

    @property
    def is_lacking(self) -> bool:
        """Tell whether a finished e-mail lacks files."""
        return bool(self.missing or self.reason)

    @property
    def reason(self) -> str | None:
        """Say what no attachment says of the files."""
        if self.problem is not None:
            return f"The previous system's list of files cannot be read: {self.problem}"
        return (
            None
            if self.is_whole
            else "The previous system listed files without addresses: a retry looks them up."
        )


async def unread_lists(conn: AsyncConnection, after: int, limit: int) -> list[tuple[int, str]]:
    """Give the ids and texts of the next lists of which no attachments were made; running attempts read their own."""
    return [(row.id, row.list) for row in await conn.execute(_UNREAD, {"after": after, "limit": limit})]


async def list_of(conn: AsyncConnection, email_id: int) -> str | None:
    """Give the text of an e-mail's `attachment_urls`."""
    found: str | None = await conn.scalar(_LIST, {"email_id": email_id})
    return found


async def record_lists(
    conn: AsyncConnection, listings: Sequence[Listing], held: FencingToken | None = None
) -> tuple[int, int]:
    """Record the files of lists, and that these were read; return how many files and how many are not captured.

    Files of unfinished e-mails are pending. Files of finished e-mails are not captured: the e-mail stays as it is, with a
    code that a retry of many finds. With `held`, it is one e-mail, which that attempt holds.
    """
    rows = [
        (each.email_id, each.fingerprint, each.is_whole, each.is_lacking, each.reason) for each in listings
    ]
    files = [
        {"email_id": each.email_id, **announced_row(position, file)}
        for each in listings
        for position, file in each.missing.items()
    ]
    given = {**arrays_of(_LISTS, rows), "files": json.dumps(files), "held": None if held is None else held[1]}
    number, not_captured = (await conn.execute(_RECORD_LISTS, given)).one()
    return number, not_captured


async def mark(conn: AsyncConnection, marks: Sequence[FileUpdate]) -> list[bool]:
    """Record what became of files; False where the attempt holds the job no longer."""
    places = set(await conn.scalars(_MARK, arrays_of(_MARKS, [_values(mark) for mark in marks])))
    return [place in places for place in range(1, len(marks) + 1)]


def announced_row(position: int, file: Announced) -> dict[str, object]:
    """Name the columns of a file that was announced, as `ANNOUNCED` lists them."""
    return {
        "position": position,
        "source_url": file.url,
        "file_name": file.file_name,
        "declared_type": file.content_type,
        "declared_size": file.size,
    }


def _values(mark: FileUpdate) -> tuple[object, ...]:
    stored, error = mark.stored, mark.error
    about = (stored.sha256, stored.size, stored.detected_type, stored.key) if stored else (None,) * 4
    why = (error.code, error.message) if error else (None, None)
    return (*mark.fencing_token, mark.position, mark.status, *about, *why)


def _is_held(held: tuple[int | ColumnElement[int], int | ColumnElement[int]]) -> Exists:
    email_id, attempt_number = held
    return exists().where(
        IncomingEmail.id == email_id,
        IncomingEmail.processing_status == "processing",
        IncomingEmail.attempt_number == attempt_number,
    )


# Made once: to make a statement takes longer than Postgres does.
_FILES = (
    select(Attachment.email_id, *(Attachment.__table__.c[field.name] for field in fields(FileRecord)))
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

_LISTS: dict[str, TypeEngine[Any]] = {
    "email_id": BigInteger(),
    "fingerprint": LargeBinary(),
    "is_whole": Boolean(),
    "is_lacking": Boolean(),
    "reason": Text(),
}
_UNREAD = text(f"""
    SELECT id, CAST(attachment_urls AS text) AS list FROM incoming_emails
    WHERE {UNREAD} AND id > :after AND processing_status <> 'processing' ORDER BY id LIMIT :limit
""").bindparams(bindparam("after", type_=BigInteger()), bindparam("limit", type_=BigInteger()))  # noqa: S608 words of ours
_LIST = text("SELECT CAST(attachment_urls AS text) FROM incoming_emails WHERE id = :email_id")
_NOT_CAPTURED = "The previous system knew of this file. It was not captured; a retry fetches it."
_LACKS = f"is_lacking AND {FINISHED}"
# Locked in the order of ids, as all statements over many e-mails do. An attempt that runs meanwhile reads its own list.
_RECORD_LISTS = text(f"""
WITH list AS (
    SELECT * FROM unnest(:every_email_id, :every_fingerprint, :every_is_whole, :every_is_lacking, :every_reason)
        AS list (email_id, fingerprint, is_whole, is_lacking, reason)
), free AS (
    SELECT list.* FROM list JOIN incoming_emails ON id = email_id
    WHERE CASE WHEN CAST(:held AS bigint) IS NULL THEN {UNREAD} AND processing_status <> 'processing'
        ELSE processing_status = 'processing' AND attempt_number = :held END
    ORDER BY id FOR NO KEY UPDATE OF incoming_emails
), read AS (
    UPDATE incoming_emails SET
        reading_hash = CASE WHEN raw_body IS NULL THEN fingerprint ELSE reading_hash END,
        comment_id = CASE WHEN is_whole THEN comment_id ELSE coalesce(comment_id, '') END,
        error_code = CASE WHEN {_LACKS} THEN coalesce(error_code, '{NOT_CAPTURED}') ELSE error_code END,
        processing_error = CASE WHEN {_LACKS} THEN coalesce(processing_error, reason) ELSE processing_error END
    FROM free WHERE id = free.email_id
    RETURNING id, {FINISHED} AS is_finished, {_LACKS} AS lacks
), recorded AS (
    INSERT INTO attachments (email_id, {", ".join(ANNOUNCED)}, status, error_code, error)
    SELECT id, {", ".join(ANNOUNCED)}, CASE WHEN is_finished THEN 'failed' ELSE 'pending' END,
        CASE WHEN is_finished THEN '{NOT_CAPTURED}' END, CASE WHEN is_finished THEN '{_NOT_CAPTURED}' END
    FROM read JOIN json_to_recordset(CAST(:files AS json)) AS file (
        email_id bigint, position integer, source_url text, file_name text, declared_type text, declared_size bigint
    ) ON file.email_id = id
    RETURNING status
)
SELECT count(*), count(*) FILTER (WHERE status = 'failed') FROM recorded
""").bindparams(  # noqa: S608 words of ours
    *(bindparam(f"every_{name}", type_=ARRAY(kind)) for name, kind in _LISTS.items()),
    bindparam("held", type_=BigInteger()),
)
