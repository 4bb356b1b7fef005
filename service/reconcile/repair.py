"""Repair differences to match Postgres, through syncs and jobs, never by direct writes to target or storage."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from sqlalchemy import BigInteger, Text, and_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from service.jobs.loose_objects import put
from service.jobs.refetch import reopen
from service.jobs.retries import record_action, restart_sync
from service.jobs.waiting import Sync
from service.postgres.email_tables import IncomingEmail
from service.postgres.rows import arrays_of, rows_of
from service.reconcile import record
from service.reconcile.calls import with_retries
from service.reconcile.contents import Content
from service.reconcile.documents import require_own_collection
from service.reconcile.expected import SyncState, known_keys, states_of
from service.reconcile.finding import Finding, Run
from service.reconcile.objects import require_most_objects
from service.resources import Resources
from service.storage import objects
from service.storage.objects import StoredObject
from service.targets.document import SOURCE
from service.targets.mongodb import Collection, FoundDocument, copy_of

ACTOR = "reconcile"
# Documents of these kinds are removed, before a sync begins.
REMOVED = ("ahead", "extra")

_COMPARED: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(("email_id", "version", "attempt_number"), BigInteger()),
    "status": Text(),
}

log = structlog.get_logger()


async def begin_syncs(
    res: Resources, findings: Sequence[Finding], wrong: Mapping[str, SyncState]
) -> list[Finding]:
    """Begin the syncs of missing, different and unsent documents; return all findings, with the repairs begun."""
    states = [wrong[each.key] for each in findings if each.kind in {"missing", "different", "not_sent"}]
    begun = {sync.email_id for sync in await _resync(res, states)} if states else set()
    words = {"not_sent": "sync begun"}
    return [
        replace(each, repair=words.get(each.kind, "synced again")) if each.email_id in begun else each
        for each in findings
    ]


async def remove_documents(
    res: Resources,
    target: Collection,
    run: Run,
    findings: Sequence[Finding],
    wrong: Mapping[str, SyncState],
) -> None:
    """Remove documents that are newer than Postgres or without an e-mail, after saving a copy of each.

    The e-mails of newer documents are synced afterwards. Raises Permanent("target_is_another") if most of our documents
    have no e-mail, unless the run is forced.
    """
    if not run.force and any(finding.kind == "extra" for finding in findings):
        await require_own_collection(res, target)
    async for finding, document in _documents(target, findings):
        if not await _still_differs(res, finding, wrong.get(finding.key)):
            continue  # a sync or a retry has run since
        kept = replace(finding, detail={**finding.detail, "document": copy_of(document)})
        run.totals.add([kept])
        await res.insist(lambda conn, kept=kept: record.save(conn, run, [kept]))  # type: ignore[misc]
        removed = await with_retries(partial(target.remove, document))
        # Even if the document was gone: our removal may have succeeded without an answer.
        if state := wrong.get(finding.key):
            await _resync(res, [state])
        if removed:
            run.totals.repaired[finding.kind] += 1
            await res.insist(
                lambda conn, key=finding.row_key: record.record_repair(conn, run.id, key, "removed"),  # type: ignore[misc]
            )
            log.info("document_removed", run=run.id, kind=finding.kind, email=finding.email_id)


async def reopen_files(
    res: Resources, findings: Sequence[Finding], lost: Sequence[Content], *, force: bool = False
) -> list[Finding]:
    """Begin to refetch the files of missing or damaged objects; return all findings, with the repairs begun.

    Raises Permanent("storage_is_another") if most objects seem to be missing, unless forced.
    """
    if lost and not force:
        await require_most_objects(res)
    hashes = {content.key: content.sha256 for content in lost}
    return [
        replace(each, repair="fetched again")
        if each.key in hashes and await _reopen(res, hashes[each.key])
        else each
        for each in findings
    ]


async def keep_damaged(res: Resources, content: Content) -> StoredObject | None:
    """Store a copy of a damaged object under its own hash, with a note; return None if the object is intact after all."""
    opened = await objects.open(res.storage, content.key)
    kept = await put(res, opened.chunks, None, content.email_id)
    return None if kept.key == content.key else kept


async def remove_damaged(res: Resources, content: Content, kept_as: str) -> None:
    """Remove a damaged object, whose copy is recorded; a put into a bucket would keep one of the right size."""
    await objects.remove(res.storage, content.key)
    log.warning("object_set_aside", key=content.key, kept_as=kept_as)


async def resync(conn: AsyncConnection, states: Sequence[SyncState]) -> list[Sync]:
    """Begin the syncs of e-mails whose states are unchanged since the comparison, and record the action."""
    rows = [(each.email_id, each.version, each.attempt_number, each.status) for each in states]
    return [Sync(*row) for row in await conn.execute(_RESYNC, arrays_of(_COMPARED, rows))]


async def count_running(res: Resources, run_id: int) -> int:
    """Count the repaired e-mails of a run whose job or sync is still running, among its saved findings."""
    return int(await res.insist(lambda conn: conn.scalar(_BEGUN, {"run": run_id})) or 0)


async def list_failed(res: Resources, run_id: int) -> list[tuple[int, str]]:
    """Return ids and errors of the repaired e-mails of a run that failed again, at most 100."""
    rows = await res.insist(lambda conn: conn.execute(_FAILED, {"run": run_id}))
    return [(row.id, row.reason) for row in rows]


async def _reopen(res: Resources, sha256: str) -> bool:
    opened, jobs = await res.insist(lambda conn: reopen(conn, sha256, ACTOR))
    for job in jobs:
        res.dispatcher.dispatch(job)
    return opened > 0


async def _resync(res: Resources, states: Sequence[SyncState]) -> list[Sync]:
    begun = await res.insist(lambda conn: resync(conn, states))
    for sync in begun:
        res.dispatcher.dispatch(sync)
    return begun


async def _still_differs(res: Resources, finding: Finding, state: SyncState | None) -> bool:
    """Tell whether the difference is unchanged: the same sync state, or still no e-mail."""
    if state is not None:
        return await res.insist(lambda conn: states_of(conn, [state.email_id])) == [state]
    key = finding.found_key
    if not isinstance(key, str) or "\0" in key:
        return True
    return not await res.insist(lambda conn: known_keys(conn, [key]))


async def _documents(
    target: Collection, findings: Sequence[Finding]
) -> AsyncIterator[tuple[Finding, FoundDocument]]:
    """Read our documents again, one at a time, because each may be large."""
    for finding in findings:
        async for batch in target.with_keys([finding.found_key]):
            for document in batch:
                if document.get("source") == SOURCE:
                    yield finding, document


def _resync_statement() -> Any:  # noqa: ANN401 a select
    compared = rows_of("compared", _COMPARED)
    free = (
        select(IncomingEmail.id)
        .join_from(
            compared,
            IncomingEmail,
            and_(
                IncomingEmail.id == compared.c.email_id,
                IncomingEmail.attempt_number == compared.c.version,
                IncomingEmail.sync_attempt_number == compared.c.attempt_number,
                IncomingEmail.sync_status == compared.c.status,
            ),
        )
        .order_by(IncomingEmail.id)
        .with_for_update(key_share=True, of=IncomingEmail)
        .cte("free")
    )
    begun = restart_sync(IncomingEmail.id == free.c.id)
    return select(begun.c.id, begun.c.attempt_number).add_cte(*record_action(begun, ACTOR, "sync"))


# Built once, because building takes longer than running.
_RESYNC = _resync_statement()
_FAILED = text("""
SELECT DISTINCT email.id, CASE email.processing_status WHEN 'failed' THEN email.processing_error ELSE email.sync_error END
    AS reason
FROM reconciliation_findings AS finding
JOIN incoming_emails AS email ON email.id = finding.email_id
WHERE reconciliation_id = :run AND repair IS NOT NULL AND (
    finding.kind LIKE 'object%' AND email.processing_status = 'failed' OR email.sync_status = 'failed'
)
ORDER BY email.id LIMIT 100
""")
_BEGUN = text("""
SELECT count(DISTINCT email.id) FROM reconciliation_findings AS finding
JOIN incoming_emails AS email ON email.id = finding.email_id
WHERE reconciliation_id = :run AND repair IS NOT NULL
    AND (email.processing_status NOT IN ('completed', 'failed') OR email.sync_status = 'pending')
""")
