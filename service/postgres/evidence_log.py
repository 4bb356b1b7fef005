"""Parts of statements that write facts into the evidence log, and the SQL of those facts.

A fact is written in the transaction that makes it true. The same SQL reads the facts of a row when it is verified. Facts
hold hashes of content and no content, so that an erasure has to look in one place alone.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Text,
    bindparam,
    insert,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.evidence_tables import EvidenceEntry

# Not part of the comparison with a row: when a fact was recorded, and whether that was after it became true.
TOLD = ("at", "later")
# After an entry of these kinds, an e-mail has no rows any more.
GONE = ("merged", "withdrawn", "removed")


def accepted(row: str) -> str:
    """Return the facts of an e-mail: the bytes of its request, its headers, and its time."""
    return _facts("accepted", {"email": f"{row}.id", **_request(row)})


def accepted_with_hashes() -> str:
    """Return the facts of `accepted` where `new` and `told` have the hashes of headers and body.

    Postgres may hash a body eight times more slowly than Python does, and intake has little time.
    """
    request = {"received_at": _time("new.received_at"), "body": "told.body", "headers": "new.headers_hash"}
    return _facts("accepted", {"email": "new.id", **request})


def hash_of_headers(row: str) -> str:
    """Return the hash of headers as their column has them, which may be JSON of another system's form."""
    return _hash(_bytes(f"CAST({row}.raw_headers AS text)"))


def announced(row: str) -> str:
    """Return the facts of a further request about an e-mail."""
    return _facts("announced", {"email": f"{row}.email_id", "announcement": f"{row}.id", **_request(row)})


def stored(row: str) -> str:
    """Return the facts of a stored file."""
    names = ("position", "sha256", "size")
    return _facts("stored", {"email": f"{row}.email_id", **{name: f"{row}.{name}" for name in names}})


def message(row: str) -> str:
    """Return the facts of a message: its record and original in storage, its text, and its times."""
    names = ("record_sha256", "record_size", "original_sha256", "original_size")
    return _facts(
        "message",
        {
            "email": f"{row}.email_id",
            **{name: f"{row}.{name}" for name in names},
            "text": _hash(_bytes(f"{row}.text")),
            "sent_at": _time(f"{row}.sent_at"),
        },
    )


def ended(row: str, outcome: str = "NULL::text") -> str:
    """Return the facts of the end of a job."""
    return _facts(
        "ended",
        {
            "email": f"{row}.id",
            "attempt": f"{row}.attempt_number",
            "status": f"{row}.processing_status",
            "completed_at": _time(f"{row}.completed_at"),
            "error_code": f"{row}.error_code",
            "outcome": outcome,
        },
    )


def reopened(row: str) -> str:
    """Return the facts of a finished job that is queued again."""
    return _facts("reopened", {"email": f"{row}.id", "attempt": f"{row}.attempt_number"})


def act(row: str) -> str:
    """Return the facts of an act of a person."""
    names = ("actor", "action", "subject")
    ids = {"email": "email_id", "quarantine": "quarantine_id", "bulk_retry": "bulk_retry_id"}
    return _facts(
        "act",
        {
            "act": f"{row}.id",
            "acted_at": _time(f"{row}.at"),
            **{name: f"{row}.{name}" for name in names},
            **{name: f"{row}.{column}" for name, column in {**ids, "finding": "finding_id"}.items()},
            "reason": _hash(_bytes(f"{row}.reason")),
        },
    )


def told(facts: str, *, later: bool = False) -> str:
    """Return facts as text, with the time at which they are recorded."""
    mark = ", 'later', true" if later else ""
    return f"CAST({facts.removesuffix(')')}, 'at', timezone('UTC', now()){mark}) AS text)"


def column(facts: str) -> ColumnElement[str]:
    """Return facts as a column of RETURNING."""
    return literal_column(told(facts), Text).label("facts")


def entries(
    kind: str,
    changed: CTE,
    email_id: ColumnElement[Any] | None = None,
    subject: ColumnElement[Any] | None = None,
    *where: ColumnElement[bool],
) -> CTE:
    """Make the part of a statement that writes the column `facts` of changed rows into the log."""
    nothing = literal(None, BigInteger)
    row = select(
        literal(kind, Text),
        nothing if email_id is None else email_id,
        nothing if subject is None else subject,
        changed.c.facts,
    ).where(*where)
    return (
        insert(EvidenceEntry)
        .from_select(["kind", "email_id", "subject", "facts"], row)
        .returning(EvidenceEntry.id)
        .cte(f"entered_{kind}")
    )


async def record(
    conn: AsyncConnection, kind: str, facts: Sequence[Mapping[str, Any]], email_ids: Sequence[int | None] = ()
) -> None:
    """Write facts of another kind into the log, in the caller's transaction.

    `email_ids` are those of the facts, in order; without any, the facts are about no e-mail. Facts hold no personal data.
    """
    given = {
        "kind": kind,
        "facts": [json.dumps(each, sort_keys=True) for each in facts],
        "email_ids": [*email_ids] or [None] * len(facts),
    }
    await conn.execute(_RECORD, given)


async def remove(conn: AsyncConnection, email_ids: Sequence[int], facts: Mapping[str, Any]) -> None:
    """Record that these e-mails were purged or erased, in the caller's transaction, and why, such as by which receipt.

    Salt and facts of all entries about them are deleted; the hashes stay, and nothing can be guessed from them.
    """
    await conn.execute(_FORGET, {"email_ids": list(email_ids)})
    await record(conn, "removed", [facts] * len(email_ids), email_ids)


async def forget(conn: AsyncConnection, email_id: int, kind: str, subject: int | None = None) -> None:
    """Delete salt and facts of the entries about one row of an e-mail that stays, such as an erased file."""
    await conn.execute(_FORGET_ROW, {"email_id": email_id, "kind": kind, "subject": subject})


async def forget_acts(conn: AsyncConnection, ids: Sequence[int]) -> None:
    """Delete salt and facts of the entries about acts whose reasons were erased, and record the rest of them.

    Call it in the transaction that erases.
    """
    if ids:
        await conn.execute(_FORGET_ACTS, {"ids": list(ids)})
        await conn.execute(_RESTATE_ACTS, {"ids": list(ids)})


async def restate(conn: AsyncConnection, email_ids: Sequence[int]) -> None:
    """Record the present facts of e-mails again, in the caller's transaction: a merge gave them rows of others."""
    for statement in _RESTATE:
        await conn.execute(statement, {"email_ids": list(email_ids)})


def _request(row: str) -> dict[str, str]:
    return {
        "received_at": _time(f"{row}.received_at"),
        "body": _hash(f"{row}.raw_body"),
        "headers": hash_of_headers(row),
    }


def _facts(kind: str, columns: Mapping[str, str]) -> str:
    pairs = ", ".join(f"'{name}', {value}" for name, value in columns.items())
    return f"jsonb_build_object('kind', '{kind}', {pairs})"


def _hash(value: str) -> str:
    return f"encode(sha256({value}), 'hex')"


def _bytes(value: str) -> str:
    return f"convert_to({value}, 'UTF8')"


def _time(value: str) -> str:
    """Return a time in UTC, whatever the time zone of the session: JSON has its ISO form then."""
    return f"timezone('UTC', {value})"


_IDS = (bindparam("email_ids", type_=ARRAY(BigInteger)),)
_LEAF = "sha256('\\x00'::bytea || salt || convert_to(facts, 'UTF8'))"
_RECORD = text("""
INSERT INTO evidence_entries (kind, email_id, facts)
SELECT :kind, email_id, CAST(
    CAST(facts AS jsonb) || jsonb_build_object('kind', CAST(:kind AS text), 'at', timezone('UTC', now()))
    || CASE WHEN email_id IS NULL THEN '{}' ELSE jsonb_build_object('email', email_id) END AS text)
FROM unnest(:facts, :email_ids) AS fact (facts, email_id)
""").bindparams(*_IDS, bindparam("kind", type_=Text()), bindparam("facts", type_=ARRAY(Text)))
_FORGET = text(f"""
UPDATE evidence_entries SET hash = {_LEAF}, salt = NULL, facts = NULL
WHERE email_id = ANY(:email_ids) AND salt IS NOT NULL
""").bindparams(*_IDS)  # noqa: S608 constants of ours
_FORGET_ROW = text(f"""
UPDATE evidence_entries SET hash = {_LEAF}, salt = NULL, facts = NULL
WHERE email_id = :email_id AND kind = :kind AND subject IS NOT DISTINCT FROM :subject AND salt IS NOT NULL
""").bindparams(  # noqa: S608 constants of ours
    *(bindparam(name, type_=BigInteger()) for name in ("email_id", "subject")),
    bindparam("kind", type_=Text()),
)
_FORGET_ACTS = text(f"""
UPDATE evidence_entries SET hash = {_LEAF}, salt = NULL, facts = NULL
WHERE kind = 'act' AND subject = ANY(:ids) AND salt IS NOT NULL
""").bindparams(bindparam("ids", type_=ARRAY(BigInteger)))  # noqa: S608 constants of ours
# Where the rows of each kind are, and what tells one row from another.
ROWS: Mapping[str, tuple[str, str, str, str]] = {
    # kind: the rows, the id of the e-mail, the subject, the facts
    "accepted": ("incoming_emails AS email", "email.id", "NULL::bigint", accepted("email")),
    "announced": ("announcements AS request", "request.email_id", "request.id", announced("request")),
    "stored": (
        "(SELECT * FROM attachments WHERE sha256 IS NOT NULL) AS file",
        "file.email_id",
        "CAST(file.position AS bigint)",
        stored("file"),
    ),
    "message": ("messages AS message", "message.email_id", "NULL::bigint", message("message")),
    "ended": (
        "(SELECT * FROM incoming_emails WHERE processing_status IN ('completed', 'failed')) AS email",
        "email.id",
        "CAST(email.attempt_number AS bigint)",
        ended("email"),
    ),
    "act": ("operator_actions AS act", "act.email_id", "act.id", act("act")),
}
_RESTATE = [
    text(f"""
INSERT INTO evidence_entries (kind, email_id, subject, facts)
SELECT '{kind}', {email_id}, {subject}, {told(facts)} FROM {rows} WHERE {email_id} = ANY(:email_ids)
""").bindparams(*_IDS)  # noqa: S608 constants of ours
    for kind, (rows, email_id, subject, facts) in ROWS.items()
    if kind in {"announced", "stored", "message", "act"}
]
_RESTATE_ACTS = text(f"""
INSERT INTO evidence_entries (kind, email_id, subject, facts)
SELECT 'act', act.email_id, act.id, {told(act("act"))} FROM operator_actions AS act WHERE act.id = ANY(:ids)
""").bindparams(bindparam("ids", type_=ARRAY(BigInteger)))  # noqa: S608 constants of ours
