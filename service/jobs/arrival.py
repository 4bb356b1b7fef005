"""New jobs: an e-mail is recorded once, with the files that it announces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import asyncpg
from sqlalchemy import (
    CTE,
    JSON,
    Boolean,
    ColumnElement,
    DateTime,
    LargeBinary,
    Select,
    TableValuedAlias,
    Text,
    bindparam,
    cast,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from service.errors import ADAPT, ROW_REFUSED, Permanent
from service.jobs import announcements
from service.jobs.waiting import DISPATCH_GRACE, Job, lock
from service.json_text import json_text
from service.postgres import evidence_log
from service.postgres.email_tables import Attachment, IncomingEmail
from service.postgres.engine import is_in_transaction, transaction
from service.postgres.evidence_tables import EvidenceEntry
from service.postgres.message_tables import Announcement
from service.postgres.prepared import Prepared
from service.postgres.rows import ANNOUNCED, announced_files, rows_of
from service.postgres.tombstones import is_erased_request
from service.telemetry.metrics import TRANSITIONS

_TEXTS = (
    "idempotency_key",
    "zendesk_ticket_id",
    "from_email",
    "from_name",
    "subject",
    "comment_id",
    "account_id",
    "invocation_id",
    "sync_status",
)
# Sent as text: the driver cannot write an array of JSON values.
_JSONS = ("attachment_urls", "raw_headers")
_COLUMNS: Mapping[str, TypeEngine[Any]] = {
    **dict.fromkeys((*_TEXTS, *_JSONS), Text()),
    **dict.fromkeys(("raw_body", "signature_hash", "reading_hash"), LargeBinary()),
    **dict.fromkeys(("late", "identified"), Boolean()),
    "received_at": DateTime(timezone=True),
    "sent_at": DateTime(timezone=True),
}
_RECEIVED = TRANSITIONS.labels("received", "intake")
_TOLD = {name: Text() for name in ("idempotency_key", "body")}  # of the evidence log
# By these, a known e-mail is found.
_KEYS = {
    name: _COLUMNS[name]
    for name in (
        *("idempotency_key", "signature_hash", "raw_body"),
        *("account_id", "zendesk_ticket_id", "comment_id", "identified"),
    )
}
ERASED_EMAIL = 0
MOST_ACCOUNT = 200  # characters: no index holds the longest header
# An arrival of an erased e-mail: the same request, or another one about the same comment.
_IS_ERASED = is_erased_request("arrival")


@dataclass(frozen=True, slots=True)
class Arrival:
    """An e-mail to record: its columns by name (key and ticket are required), and its files."""

    columns: Mapping[str, Any]
    files: Sequence[Mapping[str, Any]] = ()

    @property
    def key(self) -> str:
        return str(self.columns["idempotency_key"])

    @property
    def body_hash(self) -> str | None:
        """Return the hash of the body, for the evidence log."""
        body = self.columns.get("raw_body")
        return None if body is None else sha256(body).hexdigest()

    @property
    def order(self) -> tuple[str, ...]:
        """Return the order of inserts: two transactions with the same e-mails do not deadlock."""
        value = self.columns.get
        return (
            value("account_id") or "",
            value("zendesk_ticket_id") or "",
            value("comment_id") or "",
            self.key,
        )

    @property
    def values(self) -> Mapping[str, Any]:
        """Return the values of the columns, as the statements take them."""
        columns = self.columns
        texts = {name: json_text(value) for name in _JSONS if (value := columns.get(name)) is not None}
        # Without a value where it is false: a column without any is not sent.
        return {
            **columns,
            **texts,
            "late": columns.get("late") or None,
            "identified": has_identity(columns),
        }


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recorded e-mail of an arrival.

    `is_same` is False where the e-mail has its key or signature, and another body. `job` is to be dispatched: that of a
    new e-mail, or of a finished one that got more files. `email_id` is 0 where the e-mail was erased: nothing of the arrival
    is recorded.
    """

    email_id: int
    is_new: bool
    is_same: bool
    job: Job | None = None

    @property
    def is_erased(self) -> bool:
        return self.email_id == ERASED_EMAIL


def has_identity(columns: Mapping[str, Any]) -> bool:
    """Say whether an e-mail is that of a comment, so that no other row may be."""
    return bool(columns.get("comment_id")) and len(columns.get("account_id") or "") <= MOST_ACCOUNT


async def receive(conn: AsyncConnection, arrivals: Sequence[Arrival]) -> list[Recorded]:
    """Record e-mails, all or none: new ones, further announcements of known ones, or nothing where both are known.

    Nothing is recorded of an e-mail that was erased.

    Of several arrivals with one key, the first counts.
    """
    first = {arrival.key: arrival for arrival in reversed(arrivals)}
    new = await _insert(conn, sorted(first.values(), key=lambda arrival: arrival.order))
    ids = [new.get(arrival.key) if first[arrival.key] is arrival else None for arrival in arrivals]
    others = [arrival for arrival, email_id in zip(arrivals, ids, strict=True) if email_id is None]
    known = iter(await _recognise(conn, others) if others else ())
    return [
        next(known)
        if email_id is None
        else Recorded(email_id, is_new=True, is_same=True, job=Job(email_id, 1))
        for email_id in ids
    ]


async def is_recorded(conn: AsyncConnection, requests: Sequence[Arrival]) -> bool:
    """Say whether one of these requests, with its body, is that of an e-mail already, or was erased."""
    rows = await conn.execute(_FIND, _arrays(_KEYS, requests))
    return any(row.is_same for row in rows)


async def is_announced(conn: AsyncConnection, request: Arrival) -> bool:
    """Say whether a request is a further announcement of an e-mail.

    An insert that waited for a merge of its e-mail did not see that, for it looked before it waited.
    """
    signature = literal(request.columns.get("signature_hash"), LargeBinary)  # null matches none
    known = or_(Announcement.idempotency_key == request.key, Announcement.signature_hash == signature)
    return bool(await conn.scalar(select(exists().where(known))))


async def _insert(conn: AsyncConnection, arrivals: Sequence[Arrival]) -> dict[str, int]:
    """Insert e-mails whose key, signature and comment are new; return their ids by key."""
    files = [{"idempotency_key": arrival.key, **file} for arrival in arrivals for file in arrival.files]
    given = {**_arrays(_COLUMNS, arrivals), "every_body": [arrival.body_hash for arrival in arrivals]}
    rows = await _RECORD.fetch(conn, {**given, "files": files})
    new = {str(key): int(email_id) for key, email_id in rows}
    _RECEIVED.inc(len(new))
    return new


async def _recognise(conn: AsyncConnection, arrivals: Sequence[Arrival]) -> list[Recorded]:
    """Find the e-mail of each arrival, in order, and record the announcements that it lacks.

    Raises Permanent where another constraint prevented an insert.
    """
    rows = (await conn.execute(_FIND, _arrays(_KEYS, arrivals))).all()
    if len(rows) < len(arrivals):
        another = "Postgres refuses a row that violates a unique constraint of another system."
        raise Permanent(ROW_REFUSED, f"{another} {ADAPT}")
    further = [(row.email_id, arrival) for row, arrival in zip(rows, arrivals, strict=True) if row.is_further]
    try:
        announced, jobs = await _announce(conn, further) if further else (set(), {})
    except IntegrityError as exc:
        if not _names_no_email(exc):
            raise
        # One of the e-mails was deleted since: look again what each of them is.
        return await receive(conn, arrivals)
    known = [
        Recorded(row.email_id, is_new=False, is_same=row.is_same, job=jobs.get(row.email_id)) for row in rows
    ]
    # Another request was announced with the same key since, perhaps with another body: look again.
    late = [
        place
        for place, (row, arrival) in enumerate(zip(rows, arrivals, strict=True))
        if row.is_further and (arrival.key, arrival.body_hash) not in announced
    ]
    if late:
        for place, recorded in zip(late, await receive(conn, [arrivals[each] for each in late]), strict=True):
            known[place] = recorded
    return known


async def _announce(
    conn: AsyncConnection, further: Sequence[tuple[int, Arrival]]
) -> tuple[set[tuple[str, str]], dict[int, Job]]:
    """Record further announcements and their files; return what is new, and the jobs that are queued again, by e-mail."""
    requests = [{**arrival.values, "email_id": email_id} for email_id, arrival in further]
    # Within a caller's transaction, a savepoint: that transaction goes on after an error.
    async with conn.begin_nested() if is_in_transaction(conn) else transaction(conn):
        if with_files := [email_id for email_id, arrival in further if arrival.files]:
            await lock(conn, with_files)
        announced = await announcements.record(conn, requests)
        files: dict[int, list[Mapping[str, Any]]] = {}
        for email_id, arrival in further:
            if (arrival.key, arrival.body_hash) in announced:
                files.setdefault(email_id, []).extend(arrival.files)
        jobs = await announcements.add_files(conn, files)
    return announced, {job.email_id: job for job in jobs}


def _names_no_email(error: IntegrityError) -> bool:
    return bool(getattr(error.orig, "sqlstate", None) == asyncpg.ForeignKeyViolationError.sqlstate)


def _arrays(columns: Mapping[str, Any], arrivals: Sequence[Arrival]) -> dict[str, list[Any] | None]:
    """Return the parameters for `rows_of`; a column without any value is null, for the driver looks at each value."""
    rows = [arrival.values for arrival in arrivals]
    arrays = {f"every_{name}": [row.get(name) for row in rows] for name in columns}
    return {
        name: values if any(value is not None for value in values) else None
        for name, values in arrays.items()
    }


def _record() -> Select[str, int]:
    """Build the statement that inserts e-mails and their files; it returns the ids of the new ones."""
    row = rows_of("arrival", _COLUMNS)
    values: dict[str, ColumnElement[Any]] = {name: row.c[name] for name in _COLUMNS}
    values |= {name: cast(row.c[name], JSON) for name in _JSONS}
    values["received_at"] = func.coalesce(row.c.received_at, func.now())
    values["late"] = func.coalesce(row.c.late, literal_column("false"))
    values["processing_status"] = literal("received")
    values["due_at"] = func.now() + DISPATCH_GRACE
    values["sync_status"] = func.coalesce(row.c.sync_status, "not_applicable")
    new = (
        pg_insert(IncomingEmail)
        .from_select(
            [*values],
            select(*values.values()).where(
                *_are_not_announced(row), literal_column(f"NOT {_IS_ERASED}", Boolean)
            ),
        )
        .on_conflict_do_nothing()  # of the key, of the signature or of the comment
        .returning(
            IncomingEmail.id,
            IncomingEmail.idempotency_key,
            IncomingEmail.received_at,
            literal_column(evidence_log.hash_of_headers("incoming_emails")).label("headers_hash"),
        )
        .cte("new")
    )
    file = announced_files(bindparam("files", type_=JSON))
    recorded = (
        insert(Attachment)
        .from_select(
            ["email_id", *ANNOUNCED],
            select(new.c.id, *(file.c[name] for name in ANNOUNCED)).join_from(
                new, file, file.c.idempotency_key == new.c.idempotency_key
            ),
        )
        .returning(Attachment.position)
        .cte("recorded")
    )
    return select(new.c.idempotency_key, new.c.id).add_cte(recorded, _enter(new))


def _enter(new: CTE) -> CTE:
    """Write new e-mails into the evidence log."""
    hashes = rows_of("hashes", _TOLD)
    told = select(*hashes.c["idempotency_key", "body"]).cte("told")  # a name that the facts know
    facts = literal_column(evidence_log.told(evidence_log.accepted_with_hashes()), Text)
    row = select(literal_column("'accepted'"), new.c.id, facts).join_from(
        new, told, told.c.idempotency_key == new.c.idempotency_key
    )
    columns = ["kind", "email_id", "facts"]
    return insert(EvidenceEntry).from_select(columns, row).returning(EvidenceEntry.id).cte("entered")


def _are_not_announced(row: TableValuedAlias) -> list[ColumnElement[bool]]:
    """Match requests that are no further announcement of an e-mail: those have no row of their own."""
    # Scalar subqueries: for an EXISTS, Postgres may choose to read the whole table.
    return [
        select(Announcement.id).where(column == value).limit(1).scalar_subquery().is_(None)
        for column, value in (
            (Announcement.idempotency_key, row.c.idempotency_key),
            (Announcement.signature_hash, row.c.signature_hash),
        )
    ]


# The e-mail of an arrival: by its signature, unique to one request, by its key, or by its comment; 0 if it was erased.
_FIND = text(f"""
SELECT found.email_id, coalesce(found.is_same, false) AS is_same, found.place = 6 AS is_further
FROM unnest(
    :every_idempotency_key, :every_signature_hash, :every_raw_body,
    :every_account_id, :every_zendesk_ticket_id, :every_comment_id, :every_identified
) WITH ORDINALITY AS arrival (
    idempotency_key, signature_hash, raw_body, account_id, zendesk_ticket_id, comment_id, identified, place
)
CROSS JOIN LATERAL (
    SELECT CAST({ERASED_EMAIL} AS bigint) AS email_id, true AS is_same, 1 AS place WHERE {_IS_ERASED}
    UNION ALL
    SELECT id, raw_body = arrival.raw_body, 2
    FROM incoming_emails WHERE signature_hash = arrival.signature_hash
    UNION ALL
    SELECT email_id, raw_body = arrival.raw_body, 3
    FROM announcements WHERE signature_hash = arrival.signature_hash
    UNION ALL
    SELECT id, raw_body = arrival.raw_body, 4
    FROM incoming_emails WHERE idempotency_key = arrival.idempotency_key
    UNION ALL
    SELECT email_id, raw_body = arrival.raw_body, 5
    FROM announcements WHERE idempotency_key = arrival.idempotency_key
    UNION ALL
    SELECT id, true, 6 FROM incoming_emails
    WHERE identified AND coalesce(account_id, '') = coalesce(arrival.account_id, '')
        AND zendesk_ticket_id = arrival.zendesk_ticket_id AND comment_id = arrival.comment_id AND arrival.identified
    ORDER BY place LIMIT 1
) AS found ORDER BY arrival.place
""").bindparams(*(bindparam(f"every_{name}", type_=ARRAY(kind)) for name, kind in _KEYS.items()))  # noqa: S608

# Built once: building a statement takes longer than running it.
_RECORD = Prepared(_record())
