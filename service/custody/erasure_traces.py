"""What else an erasure finds: suspended e-mails, filters and reasons that name it, and Zendesk's list of its comments."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Row, Text, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody.erased_files import request_objects
from service.custody.scopes import Scope, sender_is
from service.jobs.erased import ERASED
from service.jobs.tombstones import bury_suspended
from service.postgres import evidence_log
from service.postgres.tombstones import is_erased, suspended_hash

# Stands in a filter for the erased value: no e-mail has it.
GONE = "[erased]"


async def erase(conn: AsyncConnection, row: Row[Any], scope: Scope) -> None:
    """Erase the remaining traces besides e-mails, webhooks and suspended e-mails."""
    given = {"subject": scope.subject, "gone": GONE}
    for statement in _FILTERS.get(scope.kind, ()):
        await conn.execute(statement, given)
    if scope.kind == "sender":
        await evidence_log.forget_acts(conn, (await conn.scalars(_ACTS, given)).all())
    if scope.kind == "ticket":
        await conn.execute(_UNLIST, {"subject": scope.subject, "until": row.begun_at})


async def suspended_in(conn: AsyncConnection, scope: Scope) -> list[int]:
    """Return the suspended e-mails in scope; of a file, those that have it."""
    return list(await conn.scalars(_SUSPENDED[scope.kind], {"subject": scope.subject}))


async def erase_suspended(conn: AsyncConnection, scope: Scope, ids: Sequence[int], receipt_id: int) -> None:
    """Erase suspended e-mails, or only the file that they have."""
    if not ids:
        return
    if scope.is_file:
        await _strip_file(conn, ids, scope.subject)
        await request_objects(conn, [scope.subject], receipt_id)
        return
    await bury_suspended(conn, ids, receipt_id)
    hashes = (await conn.scalars(_DELETE_SUSPENDED, {"ids": list(ids)})).all()
    await request_objects(conn, [sha256 for sha256 in hashes if sha256], receipt_id)


async def _strip_file(conn: AsyncConnection, ids: Sequence[int], sha256: str) -> None:
    gone = {"sha256": None, "object_key": None, "error_code": ERASED}
    for suspended_id, files in (await conn.execute(_FILES, {"ids": list(ids)})).all():
        left = [{**file, **gone} if file["sha256"] == sha256 else file for file in json.loads(files)]
        given = {"id": suspended_id, "files": json.dumps(left), "sha256": sha256}
        await conn.execute(_STRIP, given)


def _statement(sql: str) -> TextClause:
    kinds: dict[str, Any] = {
        "subject": Text(),
        "gone": Text(),
        "files": Text(),
        "sha256": Text(),
        "id": BigInteger(),
        "ids": ARRAY(BigInteger),
    }
    made = text(sql)
    named = made._bindparams  # noqa: SLF001 its names
    return made.bindparams(*(bindparam(name, type_=kind) for name, kind in kinds.items() if name in named))


_SUSPENDED = {
    "sender": _statement(
        f"SELECT id FROM suspended_emails WHERE {sender_is('from_address')} ORDER BY id"  # noqa: S608 words of ours
    ),
    "ticket": _statement("SELECT id FROM suspended_emails WHERE ticket_id = :subject ORDER BY id"),
    "email": _statement(
        "SELECT id FROM suspended_emails WHERE email_id = CAST(:subject AS bigint) ORDER BY id"
    ),
    "zendesk": _statement("SELECT id FROM suspended_emails WHERE :subject = '' ORDER BY id"),
    "restored": _statement(f"""
SELECT id FROM suspended_emails AS mine
WHERE :subject = '' AND {is_erased([suspended_hash("mine.account", "mine.suspended_id")])} ORDER BY id
"""),  # noqa: S608 words of ours
    "file": _statement(
        "SELECT id FROM suspended_emails WHERE contents @> ARRAY[CAST(:subject AS text)] ORDER BY id"
    ),
}
_DELETE_SUSPENDED = _statement("""
WITH gone AS (DELETE FROM suspended_emails WHERE id = ANY (:ids) RETURNING contents)
SELECT DISTINCT unnest(contents) FROM gone
""")
_FILES = _statement("SELECT id, CAST(files AS text) FROM suspended_emails WHERE id = ANY (:ids) FOR UPDATE")
_STRIP = _statement("""
UPDATE suspended_emails SET files = CAST(:files AS json), contents = array_remove(contents, CAST(:sha256 AS text)) WHERE id = :id
""")
_UNLIST = _statement("DELETE FROM source_emails WHERE ticket_id = :subject AND created_at <= :until")


def _renamed(table: str, field: str, among: str = "true") -> TextClause:
    """Build the statement that takes the subject out of a filter; such a filter selects nothing any more."""
    return _statement(f"""
UPDATE {table} SET filter = jsonb_set(filter::jsonb, '{{{field}}}', to_jsonb(CAST(:gone AS text)))::json
WHERE lower(filter ->> '{field}') = lower(:subject) AND {among}
""")  # noqa: S608 words of ours


# A hold in force, and a retention rule, decide about later e-mails: their filters stay as people set them.
_IS_RELEASED = "released_at IS NOT NULL"


# A search may name the address among other words.
_SEARCHES = _statement("""
UPDATE bulk_retries SET filter = jsonb_set(filter::jsonb, '{q}', to_jsonb(CAST(:gone AS text)))::json
WHERE position(lower(:subject) in lower(filter ->> 'q')) > 0
""")
_ACTS = _statement("""
UPDATE operator_actions SET reason = :gone WHERE position(lower(:subject) in lower(reason)) > 0 RETURNING id
""")
_REASONS = [
    _statement(f"""
UPDATE {table} SET {column} = :gone WHERE position(lower(:subject) in lower({column})) > 0 AND {among}
""")  # noqa: S608 words of ours
    for table, column, among in (
        ("bulk_retries", "reason", "true"),
        ("quarantined_webhooks", "dismiss_reason", "true"),
        ("holds", "reason", _IS_RELEASED),
        ("holds", "release_reason", _IS_RELEASED),
        ("acknowledgements", "note", "true"),
    )
]
# A filter that names the subject has no use any more.
_SAVED = _statement("""
DELETE FROM saved_filters WHERE position(lower(:subject) in lower(concat(name, filter ->> 'sender', filter ->> 'q'))) > 0
""")
_SAVED_OF_TICKET = _statement("DELETE FROM saved_filters WHERE filter ->> 'ticket' = :subject")
_FILTERS: dict[str, Sequence[TextClause]] = {
    "sender": (
        _renamed("bulk_retries", "sender"),
        _renamed("holds", "sender", _IS_RELEASED),
        _SEARCHES,
        *_REASONS,
        _SAVED,
    ),
    "ticket": (
        _renamed("bulk_retries", "ticket"),
        _renamed("holds", "ticket", _IS_RELEASED),
        _SAVED_OF_TICKET,
    ),
}
