"""New jobs: an e-mail is recorded once, with the files that it announces."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    ColumnElement,
    DateTime,
    LargeBinary,
    Select,
    Text,
    bindparam,
    cast,
    func,
    insert,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased
from sqlalchemy.types import TypeEngine

from service.errors import ADAPT, ROW_REFUSED, Permanent
from service.jobs.waiting import DISPATCH_GRACE
from service.postgres.email_tables import Attachment, IncomingEmail
from service.postgres.rows import ANNOUNCED, announced_files, arrays_of, rows_of
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
    "late": Boolean(),
    "received_at": DateTime(timezone=True),
    "sent_at": DateTime(timezone=True),
}
_RECEIVED = TRANSITIONS.labels("received", "intake")
_KEYS = {name: _COLUMNS[name] for name in ("idempotency_key", "signature_hash", "raw_body")}


@dataclass(frozen=True, slots=True)
class Arrival:
    """An e-mail to record: its columns by name (key and ticket are required), and its files."""

    columns: Mapping[str, Any]
    files: Sequence[Mapping[str, Any]] = ()

    @property
    def key(self) -> str:
        return str(self.columns["idempotency_key"])


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recorded e-mail with this key or signature; `is_same` tells whether the body is the same."""

    email_id: int
    is_new: bool
    is_same: bool


async def receive(conn: AsyncConnection, arrivals: Sequence[Arrival]) -> list[Recorded]:
    """Record new e-mails, all or none; of several with one key, the first."""
    first = {arrival.key: arrival for arrival in reversed(arrivals)}
    # Ordered, so that two transactions with the same keys do not deadlock.
    new = await _insert(conn, [first[key] for key in sorted(first)])
    others = [arrival for arrival in arrivals if arrival.key not in new or first[arrival.key] is not arrival]
    known = iter(await _look_up(conn, others) if others else ())
    return [
        Recorded(new[arrival.key], is_new=True, is_same=True)
        if arrival.key in new and first[arrival.key] is arrival
        else next(known)
        for arrival in arrivals
    ]


async def _insert(conn: AsyncConnection, arrivals: Sequence[Arrival]) -> dict[str, int]:
    """Insert e-mails whose key and signature are new; return their ids by key."""
    files = [{"idempotency_key": arrival.key, **file} for arrival in arrivals for file in arrival.files]
    rows = await conn.execute(_RECORD, {**_arrays(_COLUMNS, arrivals), "files": files})
    new = {row.idempotency_key: row.id for row in rows}
    _RECEIVED.inc(len(new))
    return new


async def _look_up(conn: AsyncConnection, arrivals: Sequence[Arrival]) -> list[Recorded]:
    """Find the recorded e-mail for each, in order; raises Permanent where another constraint prevented an insert."""
    rows = (await conn.execute(_FIND, _arrays(_KEYS, arrivals))).all()
    if len(rows) < len(arrivals):
        another = "Postgres refuses a row that violates a unique constraint of another system."
        raise Permanent(ROW_REFUSED, f"{another} {ADAPT}")
    return [Recorded(email_id, is_new=False, is_same=same) for email_id, same in rows]


def _arrays(columns: Mapping[str, Any], arrivals: Sequence[Arrival]) -> dict[str, list[Any]]:
    return arrays_of(columns, [[_value(arrival, name) for name in columns] for arrival in arrivals])


def _value(arrival: Arrival, name: str) -> object:
    value = arrival.columns.get(name)
    return json.dumps(value) if name in _JSONS and value is not None else value


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
        .from_select([*values], select(*values.values()))
        .on_conflict_do_nothing()  # of the key or of the signature
        .returning(IncomingEmail.id, IncomingEmail.idempotency_key)
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
    return select(new.c.idempotency_key, new.c.id).add_cte(recorded)


def _find() -> Select[int, bool]:
    """Build the statement that finds e-mails by signature, unique to one request, or else by key."""
    row, other = rows_of("arrival", _KEYS), aliased(IncomingEmail)
    by_signature, by_key = (
        select(other.id).where(column == value).scalar_subquery()
        for column, value in (
            (other.signature_hash, row.c.signature_hash),
            (other.idempotency_key, row.c.idempotency_key),
        )
    )
    is_same = func.coalesce(IncomingEmail.raw_body == row.c.raw_body, False)
    same = IncomingEmail.id == func.coalesce(by_signature, by_key)
    return select(IncomingEmail.id, is_same).join_from(row, IncomingEmail, same).order_by(row.c.place)


# Built once: building a statement takes longer than running it.
_RECORD = _record()
_FIND = _find()
