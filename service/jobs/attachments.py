"""The attachments of an e-mail and their states; an attempt writes them only while its claim is valid."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    CompoundSelect,
    Exists,
    LargeBinary,
    TableValuedAlias,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    null,
    or_,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from service.errors import HoldfastError, Permanent
from service.jobs.erased import ERASED, erased_contents
from service.jobs.object_references import ObjectRemoved
from service.postgres import evidence_log
from service.postgres.email_tables import FINISHED, NOT_CAPTURED, UNREAD, Attachment, IncomingEmail
from service.postgres.hold_tables import Hold
from service.postgres.prepared import Prepared
from service.postgres.removal_tables import LooseObject, ObjectToRemove
from service.postgres.rows import ANNOUNCED, arrays_of, is_among, rows_of
from service.storage.objects import StoredObject

FencingToken = tuple[int, int]  # the id of an e-mail, and the number of the attempt that claimed its job

_ERASED = "This content was erased, and is not stored again."
_CONTENT = ("sha256", "size", "detected_type", "object_key")
_MARKED = ("status", *_CONTENT, "error_code", "error")
_UPDATE: dict[str, TypeEngine[Any]] = {
    "email_id": BigInteger(),
    "attempt_number": BigInteger(),
    "position": BigInteger(),
    **{name: Attachment.__table__.c[name].type for name in _MARKED},
    "proof": BigInteger(),
    "note": BigInteger(),
}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as announced, and its state: pending, stored or failed.

    A pending file with `sha256` and `object_key` was stored before; then its object was lost.
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
    zendesk_id: str | None = None
    malware: str | None = None
    size: int | None = None

    @property
    def has_wrong_content(self) -> bool:
        """Say whether the content has another size than the file: Zendesk may tell the size after the download."""
        return None not in {self.size, self.declared_size} and self.size != self.declared_size


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
    """The new state of a file: stored, failed, or still pending with the last error.

    A stored file with an error keeps its content: another one was to replace it, and did not come.
    `proof` is the number of the last removal of its object, if the object was seen after that.
    """

    token: FencingToken
    position: int
    status: str
    stored: StoredObject | None = None
    error: HoldfastError | None = None
    proof: int | None = None


async def files_of(conn: AsyncConnection, email_ids: Sequence[int]) -> list[list[FileRecord]]:
    """List the files of each e-mail, in its order."""
    rows = await _FILES.fetch(conn, {"email_ids": email_ids})
    files: dict[int, list[FileRecord]] = {email_id: [] for email_id in email_ids}
    for email_id, *values in rows:
        files[email_id].append(FileRecord(*values))
    return [files[email_id] for email_id in email_ids]


@dataclass(frozen=True, slots=True)
class Listing:
    """The files in `attachment_urls` of another system that are not recorded yet, by position.

    `fingerprint` marks the list as read. `is_whole` is False where the list leaves files out. `problem` says why the list
    cannot be read.
    """

    email_id: int
    fingerprint: bytes
    missing: Mapping[int, Announced]
    is_whole: bool = True
    problem: str | None = None

    @property
    def is_lacking(self) -> bool:
        """Return whether a finished e-mail lacks files."""
        return bool(self.missing or self.reason)

    @property
    def reason(self) -> str | None:
        """Explain the missing files for which no attachment has an error."""
        if self.problem is not None:
            return f"The previous system's list of files cannot be read: {self.problem}"
        return (
            None
            if self.is_whole
            else "The previous system listed files without addresses: a retry looks them up."
        )


async def unread_lists(conn: AsyncConnection, after: int, limit: int) -> list[tuple[int, str]]:
    """Return the ids and texts of the next lists without attachments; running attempts read their own."""
    return [(row.id, row.list) for row in await conn.execute(_UNREAD, {"after": after, "limit": limit})]


async def list_of(conn: AsyncConnection, email_id: int) -> str | None:
    """Return the text of an e-mail's `attachment_urls`."""
    found: str | None = await conn.scalar(_LIST, {"email_id": email_id})
    return found


async def record_lists(
    conn: AsyncConnection, listings: Sequence[Listing], token: FencingToken | None = None
) -> tuple[int, int]:
    """Record the files of lists, and mark the lists as read; return how many files there are and how many not captured.

    Files of unfinished e-mails are pending. Files of finished e-mails are not captured: the e-mail stays as it is, with a
    code by which a bulk retry finds it. With `token`, there is one list, and its e-mail is claimed by that attempt.
    """
    rows = [
        (each.email_id, each.fingerprint, each.is_whole, each.is_lacking, each.reason) for each in listings
    ]
    files = [
        {"email_id": each.email_id, **announced_row(position, file)}
        for each in listings
        for position, file in each.missing.items()
    ]
    given = {
        **arrays_of(_LISTS, rows),
        "files": json.dumps(files),
        "attempt_number": None if token is None else token[1],
    }
    number, not_captured = (await conn.execute(_RECORD_LISTS, given)).one()
    return number, not_captured


async def mark(conn: AsyncConnection, updates: Sequence[FileUpdate]) -> list[bool | ObjectRemoved]:
    """Record new states of files; False where the attempt has lost its claim.

    ObjectRemoved where an equal object was removed since the put, see `object_references`: that file is as before. A
    content that was erased is not recorded: its file fails with the code `erased`.
    """
    stored = [update.stored for update in updates if update.stored]
    erased = await erased_contents(conn, {each.sha256: each.key for each in stored})
    updates = [
        FileUpdate(update.token, update.position, "failed", error=Permanent(ERASED, _ERASED))
        if update.stored and update.stored.sha256 in erased
        else update
        for update in updates
    ]
    rows = await _MARK.fetch(conn, arrays_of(_UPDATE, [_values(update) for update in updates]))
    results: dict[int, bool | ObjectRemoved] = {}
    for place, key, number in rows:
        results[place] = True if key is None else ObjectRemoved({key: number})
    return [results.get(place, False) for place in range(1, len(updates) + 1)]


def announced_row(position: int, file: Announced) -> dict[str, object]:
    """Return the columns of an announced file, as `ANNOUNCED` lists them."""
    return {
        "position": position,
        "source_url": file.url,
        "file_name": file.file_name,
        "declared_type": file.content_type,
        "declared_size": file.size,
    }


def _values(update: FileUpdate) -> tuple[object, ...]:
    stored, error = update.stored, update.error
    about = (stored.sha256, stored.size, stored.detected_type, stored.key) if stored else (None,) * 4
    why = (error.code, error.message) if error else (None, None)
    note = stored.note if stored else None
    return (*update.token, update.position, update.status, *about, *why, update.proof, note)


def _is_claimed(token: tuple[int | ColumnElement[int], int | ColumnElement[int]]) -> Exists:
    email_id, attempt_number = token
    return exists().where(
        IncomingEmail.id == email_id,
        IncomingEmail.processing_status == "processing",
        IncomingEmail.attempt_number == attempt_number,
    )


def _mark() -> CompoundSelect[Any]:
    """Build the statement that records new states of files; it returns their places, and the refused objects."""
    file = rows_of("file", _UPDATE)
    refused = _refused(file)
    is_new = file.c.sha256.is_not(None)
    marked = (
        update(Attachment)
        .where(
            Attachment.email_id == file.c.email_id,
            Attachment.position == file.c.position,
            _is_claimed((file.c.email_id, file.c.attempt_number)),
            ~exists().where(refused.c.place == file.c.place),
        )
        .values(
            # A lost or a wrong content stays known until another one is stored.
            stored_at=case((is_new, func.now()), else_=Attachment.stored_at),
            **{name: case((is_new, file.c[name]), else_=Attachment.__table__.c[name]) for name in _CONTENT},
            **{name: file.c[name] for name in _MARKED if name not in _CONTENT},
        )
        .returning(
            file.c.place,
            Attachment.email_id,
            cast(Attachment.position, BigInteger).label("position"),
            Attachment.status,
            Attachment.object_key,
            is_new.label("is_new"),
            evidence_log.column(evidence_log.stored("attachments")),
        )
        .cte("marked")
    )
    entered = evidence_log.entries("stored", marked, marked.c.email_id, marked.c.position, marked.c.is_new)
    done = select(marked.c.place, null().cast(Text).label("key"), null().cast(BigInteger).label("number"))
    number = case((refused.c.state == "removed", refused.c.number))
    results = union_all(done, select(refused.c.place, refused.c.key, number))
    return results.add_cte(entered, _named(file, marked), _replaced(marked))


def _refused(file: TableValuedAlias) -> CTE:
    """Select the files whose object is removed, or was: no reference to it may be written."""
    # FOR SHARE: see `object_references`. In the order of keys, as all statements that lock these rows.
    known = (
        select(file.c.place, file.c.proof, *ObjectToRemove.__table__.c["key", "state", "number"])
        .join_from(file, ObjectToRemove, ObjectToRemove.key == file.c.object_key)
        .where(file.c.status == "stored")
        .order_by(ObjectToRemove.key)
        .with_for_update(read=True, of=ObjectToRemove)
        .cte("known")
    )
    is_removed = and_(known.c.state == "removed", known.c.number.is_distinct_from(known.c.proof))
    return select(known).where(or_(known.c.state == "removing", is_removed)).cte("refused")


def _named(file: TableValuedAlias, marked: CTE) -> CTE:
    """Delete the notes of the objects that have a reference now."""
    # A note that `loose_objects` has locked stays: the remover looks for names later, and sees this reference.
    notes = (
        select(LooseObject.number)
        .join(file, LooseObject.number == file.c.note)
        .join(marked, and_(marked.c.place == file.c.place, marked.c.status == "stored"))
        .with_for_update(of=LooseObject, skip_locked=True)
    )
    return delete(LooseObject).where(LooseObject.number.in_(notes)).cte("named")


def _replaced(marked: CTE) -> CTE:
    """Note the objects that files had before another content was stored; `loose_objects` removes those without a name.

    While any hold is in force they stay: it may cover the e-mail.
    """
    # All parts of a statement read the rows as they were before it.
    is_same_file = (marked.c.email_id == Attachment.email_id, marked.c.position == Attachment.position)
    before = (
        select(Attachment.object_key)
        .join(marked, and_(*is_same_file))
        .where(marked.c.status == "stored", Attachment.object_key != marked.c.object_key)
        .where(~exists(select(Hold.id).where(Hold.released_at.is_(None))))
    )
    return insert(LooseObject).from_select(["key"], before).cte("replaced")


# Built once: building a statement takes longer than running it.
_FILES = Prepared(
    select(Attachment.email_id, *(Attachment.__table__.c[field.name] for field in fields(FileRecord)))
    .where(is_among(Attachment.__table__.c.email_id, "email_ids"))
    .order_by(Attachment.email_id, Attachment.position)
)
_MARK = Prepared(_mark())

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
""").bindparams(bindparam("after", type_=BigInteger()), bindparam("limit", type_=BigInteger()))  # noqa: S608 constants of ours
_LIST = text("SELECT CAST(attachment_urls AS text) FROM incoming_emails WHERE id = :email_id")
_NOT_CAPTURED = "The previous system knew of this file. It was not captured; a retry fetches it."
_LACKS = f"is_lacking AND {FINISHED}"
# Locks rows in the order of ids, as all statements over many e-mails do. Running attempts read their own list.
_RECORD_LISTS = text(f"""
WITH list AS (
    SELECT * FROM unnest(:every_email_id, :every_fingerprint, :every_is_whole, :every_is_lacking, :every_reason)
        AS list (email_id, fingerprint, is_whole, is_lacking, reason)
), free AS (
    SELECT list.* FROM list JOIN incoming_emails ON id = email_id
    WHERE CASE WHEN CAST(:attempt_number AS bigint) IS NULL THEN {UNREAD} AND processing_status <> 'processing'
        ELSE processing_status = 'processing' AND attempt_number = :attempt_number END
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
""").bindparams(  # noqa: S608 constants of ours
    *(bindparam(f"every_{name}", type_=ARRAY(kind)) for name, kind in _LISTS.items()),
    bindparam("attempt_number", type_=BigInteger()),
)
