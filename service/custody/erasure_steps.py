"""The steps of an erasure, each in the transaction of its caller, which has locked the erasure's row."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Executable,
    Integer,
    Interval,
    Row,
    Text,
    TextClause,
    bindparam,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody import erasure_traces
from service.custody.erased_files import erase_file
from service.custody.held_traces import holds_on_suspended, holds_on_webhooks
from service.custody.mentions import Mentions
from service.custody.removal import remove
from service.custody.scopes import Scope, comments_of, emails_in, with_copies
from service.jobs.tombstones import WebhookTable, bury, bury_webhooks
from service.jobs.waiting import lock
from service.postgres.email_tables import FINISHED
from service.postgres.held_emails import filters_in_force, free_of_holds, held_among, share_custody
from service.postgres.rows import in_batches
from service.postgres.tombstones import (
    content_hash,
    is_erased,
    is_erased_email,
    request_hashes,
)

EMAILS = 100  # of one step
WEBHOOKS = 100  # bodies that one step reads
_FEW_BODIES = 20  # in memory at once, for the holds on late requests
LATE = 1_000  # newer e-mails that one step compares with the tombstones
# A held e-mail may be released some day.
HELD_PAUSE = timedelta(hours=1)
WAIT_PAUSE = timedelta(seconds=0.2)

_NOW = timedelta(0)


async def take(conn: AsyncConnection, row: Row[Any]) -> int:
    """Take the next step of an erasure; return how many e-mails it deleted."""
    scope = Scope(row.scope, row.subject)
    if row.phase == "emails":
        return await _erase_emails(conn, row, scope)
    if row.phase in _WEBHOOKS:
        return await _erase_webhooks(conn, row, scope, _WEBHOOKS[row.phase])
    if row.phase == "traces":
        await _erase_traces(conn, row, scope)
    elif row.phase == "wait":
        await _wait(conn, row)
    else:
        return await _erase_late(conn, row, scope)
    return 0


def counting(scope: Scope, email_ids: Sequence[int]) -> tuple[Executable, dict[str, Any]]:
    """Return the statement that counts what an erasure deletes with these e-mails, and its parameters."""
    if scope.is_file:
        return _COUNT_FILES, {"email_ids": list(email_ids), "subject": scope.subject}
    return _COUNT, {"email_ids": list(email_ids)}


async def count_webhooks(
    conn: AsyncConnection, scope: Scope, comments: Sequence[str]
) -> tuple[int, Counter[str]]:
    """Count the requests in quarantine, and the ignored ones, that mention the subject; and those that holds cover."""
    number, held, mentions = 0, Counter[str](), scope.mentions(comments)
    for table in () if scope.is_file else _WEBHOOKS.values():
        after = 0
        while rows := await _bodies(conn, table, after, 2**62, 2**62):
            after = rows[-1].id
            chosen = {*await _mentioning(rows, mentions)}
            number += len(chosen)
            held += by_hold(await holds_on_webhooks(conn, [each for each in rows if each.id in chosen]))
    return number, held


async def count_suspended(conn: AsyncConnection, scope: Scope) -> tuple[int, Counter[str]]:
    """Count the suspended e-mails in scope, and those that holds cover."""
    ids = await erasure_traces.suspended_in(conn, scope)
    return len(ids), by_hold(await holds_on_suspended(conn, ids))


def by_hold(held: Mapping[int, Sequence[str]]) -> Counter[str]:
    """Count what is held by the names of the holds."""
    return Counter(name for names in held.values() for name in names)


async def _erase_emails(conn: AsyncConnection, row: Row[Any], scope: Scope) -> int:
    """Delete the next e-mails that are not held, or the file that they have."""
    last = 2**62 if scope.is_file else row.last_email
    ids = await emails_in(conn, scope, row.place, last, EMAILS)
    if not ids:
        await _end_phase(conn, row, scope, "quarantined", is_held=bool(row.place and row.held_by))
        return 0
    group = ids if scope.is_file else await with_copies(conn, ids)
    # The lock of holds comes before any row.
    held = await held_among(conn, group)
    free = [email_id for email_id in group if email_id not in held]
    await lock(conn, free, for_delete=True)
    comments = [] if scope.is_file else await comments_of(conn, free)
    number = await _erase_free(conn, row, scope, free)
    await _note(conn, row, scope, held, comments)
    await _go_on(conn, row, place=ids[-1])
    return number


async def _erase_free(conn: AsyncConnection, row: Row[Any], scope: Scope, email_ids: Sequence[int]) -> int:
    if scope.is_file:
        await erase_file(conn, scope.subject, email_ids, row.receipt_id)
        return 0
    await bury(conn, email_ids, row.receipt_id)
    return len(await remove(conn, email_ids, row.receipt_id, unfinished=True))


async def _erase_webhooks(conn: AsyncConnection, row: Row[Any], scope: Scope, table: WebhookTable) -> int:
    """Delete the next stored requests that mention the subject, or that are about an erased e-mail.

    An e-mail that a replay made of one since the erasure began goes with it, unless it is held.
    """
    last = row.last_quarantined if table == "quarantined_webhooks" else row.last_ignored
    rows = [] if scope.is_file else await _bodies(conn, table, row.place, last, row.last_email)
    following = "ignored" if table == "quarantined_webhooks" else "traces"
    if not rows:
        await _end_phase(conn, row, scope, following, is_held=bool(row.place and row.held_by))
        return 0
    chosen = await _mentioning(rows, scope.mentions(row.comments or ()))
    known = await conn.scalars(_ERASED_WEBHOOKS[table], {"ids": [each.id for each in rows]})
    await share_custody(conn)
    # A replay that runs has the lock, and its e-mail is known afterwards.
    locked = (await conn.execute(_LOCK_WEBHOOKS[table], {"ids": sorted({*chosen, *known})})).all()
    numbers = {each.id for each in locked}
    kept = await holds_on_webhooks(conn, [each for each in rows if each.id in numbers])
    locked = [each for each in locked if each.id not in kept]
    replayed = sorted({each.email_id for each in locked if (each.email_id or 0) > row.last_email})
    held = await held_among(conn, replayed)
    free = [email_id for email_id in replayed if email_id not in held]
    await lock(conn, free, for_delete=True)
    ids = [each.id for each in locked if each.email_id not in held]
    await _note(conn, row, scope, kept)
    webhooks = await _delete_webhooks(conn, table, ids, row.receipt_id)
    emails = await _erase_free(conn, row, scope, free)
    await _go_on(conn, row, place=rows[-1].id, webhooks=webhooks)
    return emails


async def _erase_traces(conn: AsyncConnection, row: Row[Any], scope: Scope) -> None:
    suspended, held = await _erase_free_suspended(conn, scope, row.receipt_id)
    await erasure_traces.erase(conn, row, scope)
    # Tombstones recognise all that is left, so the row forgets the address now: the next phase may take weeks.
    if not (scope.is_file or held):
        await conn.execute(_FORGET, {"id": row.id})
    await _note(conn, row, scope, held)
    await _go_on(conn, row, suspended=suspended)
    await _end_phase(conn, row, scope, "wait", is_held=bool(held))


async def _note(
    conn: AsyncConnection,
    row: Row[Any],
    scope: Scope,
    held: Mapping[int, Sequence[str]],
    comments: Sequence[str] = (),
) -> None:
    """Note the comments that were erased, and the holds that were met in this phase, or in all of what Zendesk deleted."""
    names = {*by_hold(held)}
    if row.place or scope.kind == "zendesk":
        names |= {*(row.held_by or ())}
    await conn.execute(_NOTE, {"id": row.id, "comments": list(comments), "held_by": sorted(names)})


async def _end_phase(
    conn: AsyncConnection, row: Row[Any], scope: Scope, following: str, *, is_held: bool
) -> None:
    """Go on with the next phase. What is held stays until it is released; then the search of this phase begins again."""
    waits = is_held and scope.kind != "zendesk"
    phase, pause = (row.phase, HELD_PAUSE) if waits else (following, _NOW)
    await _go_on(conn, row, phase=phase, pause=pause)


async def _wait(conn: AsyncConnection, row: Row[Any]) -> None:
    """Wait for all transactions that ran at the start of this phase: they may not see the tombstones."""
    if row.transactions is None:
        await conn.execute(_BARRIER, {"id": row.id})
        await _go_on(conn, row, phase="wait", pause=WAIT_PAUSE)
    elif await conn.scalar(_RUNNING, {"transactions": row.transactions}):
        await _go_on(conn, row, phase="wait", pause=WAIT_PAUSE)
    else:
        await _go_on(conn, row, phase="late")


async def _erase_late(conn: AsyncConnection, row: Row[Any], scope: Scope) -> int:
    """Delete the rows that such transactions wrote; at the end, nothing names the subject any more."""
    if scope.is_file and await emails_in(conn, scope, 0, 2**62, 1):
        await _go_on(conn, row, phase="emails")
        return 0
    after = max(row.place, row.last_email)
    rows = (await conn.execute(_LATE, {"after": after, "limit": LATE})).all()
    late = [each.id for each in rows if each.is_erased]
    held = await held_among(conn, late) if late else {}
    free = [email_id for email_id in late if email_id not in held]
    number = await _erase_free(conn, row, scope, free) if free and not scope.is_file else 0
    if row.scope == "restored":
        names = sorted({*by_hold(held), *(row.held_by or ())})
        await conn.execute(_NOTE, {"id": row.id, "comments": [], "held_by": names})
    if rows:
        await _go_on(conn, row, place=rows[-1].id)
        return number
    await share_custody(conn)
    kept = {*(row.held_by or ())}
    if row.scope == "restored":
        kept |= await _erase_restored(conn, row, scope)
    webhooks = 0
    for table in _WEBHOOKS.values():
        deleted, holds = await _erase_late_webhooks(conn, row, table)
        webhooks, kept = webhooks + deleted, kept | holds
    await conn.execute(_NOTE, {"id": row.id, "comments": [], "held_by": sorted(kept)})
    await conn.execute(_END, {"id": row.id, "webhooks": webhooks})
    return number


async def _erase_late_webhooks(
    conn: AsyncConnection, row: Row[Any], table: WebhookTable
) -> tuple[int, set[str]]:
    """Delete the stored requests that tombstones recognise; return their number, and the holds on those that stay."""
    last = row.last_quarantined if table == "quarantined_webhooks" else row.last_ignored
    ids = list(await conn.scalars(_LATE_WEBHOOKS[table], {"after": last}))
    kept: dict[int, list[str]] = {}
    if await filters_in_force(conn):  # otherwise nobody needs the bodies
        for some in in_batches(ids, _FEW_BODIES):
            kept |= await holds_on_webhooks(
                conn, (await conn.execute(_BODIES_OF[table], {"ids": some})).all()
            )
    free = [each for each in ids if each not in kept]
    number = await _delete_webhooks(conn, table, free, row.receipt_id)
    return number, {*by_hold(kept)}


async def _erase_restored(conn: AsyncConnection, row: Row[Any], restored: Scope) -> set[str]:
    """Erase contents and suspended e-mails that tombstones recognise; return the holds on suspended ones that stay."""
    suspended, kept = 0, set[str]()

    async def erase_suspended(scope: Scope) -> int:
        number, held = await _erase_free_suspended(conn, scope, row.receipt_id)
        kept.update(by_hold(held))
        return number

    for sha256 in (await conn.scalars(_ERASED_CONTENTS)).all():
        scope = Scope("file", sha256)
        free = await free_of_holds(conn, await emails_in(conn, scope, 0, 2**62, 2**31))
        await lock(conn, free, for_delete=True)
        await erase_file(conn, sha256, free, row.receipt_id)
        suspended += await erase_suspended(scope)
    suspended += await erase_suspended(restored)
    await _go_on(conn, row, suspended=suspended)
    return kept


async def _erase_free_suspended(
    conn: AsyncConnection, scope: Scope, receipt_id: int
) -> tuple[int, Mapping[int, Sequence[str]]]:
    """Erase the suspended e-mails in scope that no hold covers; return their number, and the holds on the others."""
    await share_custody(conn)
    ids = await erasure_traces.suspended_in(conn, scope)
    held = await holds_on_suspended(conn, ids)
    free = [each for each in ids if each not in held]
    await erasure_traces.erase_suspended(conn, scope, free, receipt_id)
    return len(free), held


async def _bodies(
    conn: AsyncConnection, table: WebhookTable, after: int, last: int, last_email: int
) -> Sequence[Row[Any]]:
    given = {"after": after, "last": last, "last_email": last_email, "limit": WEBHOOKS}
    return (await conn.execute(_BODIES[table], given)).all()


async def _mentioning(rows: Sequence[Row[Any]], mentions: Mentions) -> list[int]:
    def search() -> list[int]:
        return [row.id for row in rows if mentions.found_in(bytes(row.raw_body))]

    return await asyncio.to_thread(search)  # bodies may have megabytes


async def _delete_webhooks(
    conn: AsyncConnection, table: WebhookTable, ids: Sequence[int], receipt_id: int
) -> int:
    if not ids:
        return 0
    await bury_webhooks(conn, table, ids, receipt_id)
    return (await conn.execute(_DELETE_WEBHOOKS[table], {"ids": list(ids)})).rowcount


async def _go_on(  # noqa: PLR0913 the columns of the progress
    conn: AsyncConnection,
    row: Row[Any],
    *,
    phase: str | None = None,
    place: int = 0,
    pause: timedelta = _NOW,
    webhooks: int = 0,
    suspended: int = 0,
) -> None:
    given = {"phase": phase or row.phase, "place": place, "pause": pause}
    counts = {"webhooks": webhooks, "suspended": suspended}
    await conn.execute(_GO_ON, {"id": row.id, **given, **counts})


_WEBHOOKS: dict[str, WebhookTable] = {"quarantined": "quarantined_webhooks", "ignored": "ignored_webhooks"}
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("id", "after", "last", "last_email", "limit"), BigInteger()),
    **dict.fromkeys(("ids", "email_ids"), ARRAY(BigInteger)),
    **dict.fromkeys(("comments", "held_by", "transactions"), ARRAY(Text)),
    **dict.fromkeys(("phase", "subject"), Text()),
    **dict.fromkeys(("webhooks", "suspended"), Integer()),
    "place": BigInteger(),
    "pause": Interval(),
}


def _statement(sql: str) -> TextClause:
    made = text(sql)
    named = made._bindparams  # noqa: SLF001 its names
    return made.bindparams(*(bindparam(name, type_=kind) for name, kind in _TYPES.items() if name in named))


_THESE = "email_id = ANY (:email_ids)"
_COUNT = _statement(f"""
SELECT count(*) FILTER (WHERE NOT ({FINISHED})) AS unfinished,
    count(*) FILTER (WHERE raw_body IS NOT NULL) + (SELECT count(*) FROM announcements WHERE {_THESE}) AS requests,
    count(*) FILTER (WHERE sync_status = 'synced' OR sync_attempt_number > 0) AS documents,
    (SELECT count(*) FROM attachments WHERE {_THESE} AND sha256 IS NOT NULL) AS files,
    (SELECT coalesce(sum(size), 0) FROM attachments WHERE {_THESE} AND sha256 IS NOT NULL) AS bytes
FROM incoming_emails WHERE id = ANY (:email_ids)
""")  # noqa: S608 words of ours
_COUNT_FILES = _statement(f"""
SELECT count(*) AS files, coalesce(sum(size), 0) AS bytes FROM attachments WHERE {_THESE} AND sha256 = :subject
""")  # noqa: S608 words of ours
_NOTE = _statement("""
UPDATE erasures SET held_by = :held_by,
    comments = ARRAY(SELECT DISTINCT unnest(comments || CAST(:comments AS text[])) ORDER BY 1)
WHERE id = :id
""")
_GO_ON = _statement("""
UPDATE erasures SET phase = :phase, place = :place, next_at = now() + :pause, webhooks = webhooks + :webhooks,
    suspended = suspended + :suspended, error_code = NULL, error = NULL
WHERE id = :id
""")
_FORGET = _statement("UPDATE erasures SET subject = NULL, comments = NULL WHERE id = :id")
_END = _statement("""
UPDATE erasures SET phase = 'receipt', subject = NULL, comments = NULL, transactions = NULL,
    webhooks = webhooks + :webhooks, error_code = NULL, error = NULL
WHERE id = :id
""")
# A request whose e-mail was on record when the erasure began stays with it: that e-mail is not in scope.
# What a person corrected may mention it, too.
_CORRECTED = """
    || coalesce((SELECT string_agg(body, '') FROM quarantine_corrections WHERE quarantine_id = quarantined_webhooks.id), '')
"""
_BODIES = {
    table: _statement(f"""
SELECT id, received_at, raw_body {_CORRECTED if table == "quarantined_webhooks" else ""} AS raw_body FROM {table} WHERE id > :after AND id <= :last
    AND NOT EXISTS (
        SELECT FROM incoming_emails WHERE incoming_emails.id = {table}.email_id AND incoming_emails.id <= :last_email
    )
ORDER BY id LIMIT :limit
""")  # noqa: S608 words of ours
    for table in _WEBHOOKS.values()
}
_IS_ERASED_REQUEST = is_erased(
    request_hashes("request.idempotency_key", "request.signature_hash", "request.raw_body")
)
_ERASED_WEBHOOKS = {
    table: _statement(f"SELECT id FROM {table} AS request WHERE id = ANY (:ids) AND {_IS_ERASED_REQUEST}")  # noqa: S608 words of ours
    for table in _WEBHOOKS.values()
}
_LATE_WEBHOOKS = {
    table: _statement(f"SELECT id FROM {table} AS request WHERE id > :after AND {_IS_ERASED_REQUEST}")  # noqa: S608 words of ours
    for table in _WEBHOOKS.values()
}
_BODIES_OF = {
    table: _statement(f"""
SELECT id, received_at, raw_body {_CORRECTED if table == "quarantined_webhooks" else ""} AS raw_body
FROM {table} WHERE id = ANY (:ids)
""")  # noqa: S608 words of ours
    for table in _WEBHOOKS.values()
}
_LOCK_WEBHOOKS = {
    table: _statement(f"SELECT id, email_id FROM {table} WHERE id = ANY (:ids) ORDER BY id FOR UPDATE")  # noqa: S608 words of ours
    for table in _WEBHOOKS.values()
}
_DELETE_WEBHOOKS = {
    table: _statement(f"DELETE FROM {table} WHERE id = ANY (:ids)")  # noqa: S608 words of ours
    for table in _WEBHOOKS.values()
}
_LATE = _statement(f"""
SELECT id, {is_erased_email("email", "created_at")} AS is_erased
FROM incoming_emails AS email LEFT JOIN messages ON email_id = id
WHERE id > :after ORDER BY id LIMIT :limit
""")  # noqa: S608 words of ours
# All that the scope of a file finds: an original may be one.
_ERASED_CONTENTS = text(f"""
SELECT sha256 FROM (
    SELECT sha256 FROM attachments WHERE sha256 IS NOT NULL
    UNION SELECT original_sha256 FROM messages WHERE original_sha256 IS NOT NULL
    UNION SELECT unnest(contents) FROM suspended_emails
) AS content WHERE {is_erased([content_hash("content.sha256")])}
""")  # noqa: S608 words of ours
# A statement that only reads so far has no transaction id yet: the virtual one is there from its start.
_BARRIER = _statement("""
UPDATE erasures SET transactions = (
    SELECT coalesce(array_agg(virtualtransaction), '{}') FROM pg_locks JOIN pg_stat_activity AS session USING (pid)
    WHERE locktype = 'virtualxid' AND datname = current_database() AND usename IS NOT NULL AND pid <> pg_backend_pid()
) WHERE id = :id
""")
_RUNNING = _statement("""
SELECT count(*) FROM pg_locks WHERE locktype = 'virtualxid' AND virtualtransaction = ANY (:transactions)
""")
