"""Further announcements of an e-mail, and files that come to it after its first one."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    LargeBinary,
    Text,
    bindparam,
    cast,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from service.jobs.attachments import files_of
from service.jobs.retries import reopen_parts, requeue
from service.jobs.waiting import Job, lock
from service.outbound.addresses import attachment_key
from service.postgres import evidence_log
from service.postgres.email_tables import Attachment, IncomingEmail
from service.postgres.message_tables import Announcement
from service.postgres.rows import ANNOUNCED, announced_files, arrays_of, rows_of
from service.telemetry.metrics import TRANSITIONS

FileColumns = Mapping[str, Any]  # the columns ANNOUNCED

_COLUMNS: Mapping[str, TypeEngine[Any]] = {
    "email_id": BigInteger(),
    **dict.fromkeys(("idempotency_key", "account_id", "invocation_id", "raw_headers"), Text()),
    **dict.fromkeys(("raw_body", "signature_hash"), LargeBinary()),
    "late": Boolean(),
    "received_at": DateTime(timezone=True),
}
_REOPENED = TRANSITIONS.labels("queued", "announcement")


async def record(conn: AsyncConnection, requests: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Record further requests about e-mails, each once; `raw_headers` are JSON as text.

    Return key and hash of the body of those that are new. Another request has the key or the signature of the others.
    """
    # Ordered, so that two transactions with the same keys do not deadlock.
    ordered = sorted(requests, key=lambda request: str(request["idempotency_key"]))
    rows = [[request.get(name) for name in _COLUMNS] for request in ordered]
    return {(key, body) for key, body in await conn.execute(_RECORD, arrays_of(_COLUMNS, rows))}


async def add_files(conn: AsyncConnection, files: Mapping[int, Sequence[FileColumns]]) -> list[Job]:
    """Add files to e-mails that have them not yet; return the jobs of finished e-mails, which are queued again.

    A running attempt may not see them: another one follows it. `files` are by the id of the e-mail, and have the
    columns ANNOUNCED; their positions are given anew.
    """
    email_ids = sorted(email_id for email_id, announced in files.items() if announced)
    if not email_ids:
        return []
    await lock(conn, email_ids)
    new = [
        {"idempotency_key": str(email_id), **file}
        for email_id, known in zip(email_ids, await files_of(conn, email_ids), strict=True)
        for file in _unknown(files[email_id], known)
    ]
    if not new:
        return []
    await conn.execute(_ADD, {"files": new})
    return await reopen(conn, sorted({int(file["idempotency_key"]) for file in new}))


async def reopen(conn: AsyncConnection, email_ids: Sequence[int]) -> list[Job]:
    """Let an attempt follow: queue those of these jobs that are finished, and mark those that run.

    Return the jobs to dispatch. The others find their new files without it.
    """
    are_these = IncomingEmail.id == func.any(literal(email_ids, ARRAY(BigInteger)))
    is_running = IncomingEmail.processing_status == "processing"
    await conn.execute(update(IncomingEmail).where(are_these, is_running).values(has_news=True))
    queued = requeue(are_these, reread=False)
    rows = (
        await conn.execute(select(*queued.c["id", "attempt_number"]).add_cte(*reopen_parts(queued)))
    ).all()
    _REOPENED.inc(len(rows))
    return [Job(row.id, row.attempt_number + 1) for row in rows]


def _unknown(announced: Sequence[FileColumns], known: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the announced files that are not known, at the next positions."""
    keys = {attachment_key(file.source_url) for file in known if file.source_url}
    names = {file.file_name for file in known}
    first = max((file.position for file in known), default=-1) + 1
    new: list[dict[str, Any]] = []
    for file in announced:
        key = attachment_key(file["source_url"])
        if key in keys or (not key and file["file_name"] in names):
            continue
        keys.add(key or f"unaddressed {len(new)}")
        new.append({**file, "position": first + len(new)})
    return new


def _make_record() -> Any:  # noqa: ANN401 a statement
    row = rows_of("request", _COLUMNS)
    values: dict[str, ColumnElement[Any]] = {name: row.c[name] for name in _COLUMNS}
    values["raw_headers"] = cast(row.c.raw_headers, JSON)
    values["received_at"] = func.coalesce(row.c.received_at, func.now())
    values["late"] = func.coalesce(row.c.late, False)
    new = (
        pg_insert(Announcement)
        .from_select([*values], select(*values.values()))
        .on_conflict_do_nothing()  # of the key or of the signature
        .returning(
            Announcement.id,
            Announcement.email_id,
            Announcement.idempotency_key,
            func.encode(func.sha256(Announcement.raw_body), "hex").label("body_hash"),
            evidence_log.column(evidence_log.announced("announcements")),
        )
        .cte("new")
    )
    recorded = select(*new.c["idempotency_key", "body_hash"])
    return recorded.add_cte(evidence_log.entries("announced", new, new.c.email_id, new.c.id))


def _make_add() -> Any:  # noqa: ANN401 an insert
    # The column of the key holds the id of the e-mail.
    file = announced_files(bindparam("files", type_=JSON))
    rows = select(cast(file.c.idempotency_key, BigInteger), *(file.c[name] for name in ANNOUNCED))
    return insert(Attachment).from_select(["email_id", *ANNOUNCED], rows)


# Built once: building a statement takes longer than running it.
_RECORD = _make_record()
_ADD = _make_add()
