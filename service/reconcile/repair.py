"""Put right what differs, towards Postgres: through the sync and the jobs, and never by a write of our own."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from sqlalchemy import BigInteger, Text, and_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from service.jobs.refetch import reopen
from service.jobs.retries import record_action, restart_sync
from service.jobs.waiting import Sync
from service.postgres.email_tables import IncomingEmail
from service.postgres.rows import arrays_of, rows_of
from service.reconcile import record
from service.reconcile.contents import Content
from service.reconcile.documents import see_that_it_is_ours
from service.reconcile.expected import State, known_keys, states_of
from service.reconcile.finding import Finding, Run
from service.reconcile.objects import see_that_most_is_there
from service.reconcile.outages import ask, patiently
from service.resources import Resources
from service.storage import objects
from service.targets.document import SOURCE
from service.targets.mongodb import Collection, FoundDocument, copy_of

ACTOR = "reconcile"
# Before the sync of these is begun, what is in the way is removed.
REMOVED = ("ahead", "extra")

_COMPARED: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(("email_id", "version", "attempt_number"), BigInteger()),
    "status": Text(),
}

log = structlog.get_logger()


async def begin_syncs(
    res: Resources, findings: Sequence[Finding], wrong: Mapping[str, State]
) -> list[Finding]:
    """Have what is missing, differs or was never sent carried over; return all findings, with what was done about them."""
    states = [wrong[each.key] for each in findings if each.kind in {"missing", "different", "not_sent"}]
    begun = {sync.email_id for sync in await _resync(res, states)} if states else set()
    words = {"not_sent": "sync begun"}
    return [
        replace(each, repair=words.get(each.kind, "synced again")) if each.email_id in begun else each
        for each in findings
    ]


async def remove_documents(
    res: Resources,
    there: Collection,
    run: Run,
    findings: Sequence[Finding],
    wrong: Mapping[str, State],
) -> None:
    """Remove documents that are ahead of what is on record, or of no e-mail, once a copy of each is on record.

    Of what was ahead the right version is carried over then. Raises Permanent("target_is_another") where most documents
    of ours are of no e-mail, unless the run is forced.
    """
    if not run.force and any(finding.kind == "extra" for finding in findings):
        await see_that_it_is_ours(res, there)
    async for finding, document in _documents(there, findings):
        if not await _is_wrong_still(res, finding, wrong.get(finding.key)):
            continue  # while others were removed, it was carried anew
        kept = replace(finding, detail={**finding.detail, "document": copy_of(document)})
        run.seen.note([kept])
        await ask(res, lambda conn, kept=kept: record.save(conn, run, [kept]))  # type: ignore[misc]
        removed = await patiently(partial(there.remove, document))
        if state := wrong.get(finding.key):  # also where it was gone: by us, perhaps, and the answer was lost
            await _resync(res, [state])
        if removed:
            run.seen.repaired[finding.kind] += 1
            await ask(
                res,
                lambda conn, key=finding.row_key: record.note_repair(conn, run.id, key, "removed"),  # type: ignore[misc]
            )
            log.info("document_removed", run=run.id, kind=finding.kind, email=finding.email_id)


async def reopen_files(
    res: Resources, findings: Sequence[Finding], lost: Sequence[Content], *, force: bool = False
) -> list[Finding]:
    """Have the files fetched again whose objects are gone or damaged; return all, with what was done about them.

    Raises Permanent("storage_is_another") where most seem to be gone, unless it is forced.
    """
    if lost and not force:
        await see_that_most_is_there(res)
    hashes = {content.key: content.sha256 for content in lost}
    return [
        replace(each, repair="fetched again")
        if each.key in hashes and await _reopen(res, hashes[each.key])
        else each
        for each in findings
    ]


async def keep_damaged(res: Resources, content: Content) -> str | None:
    """Keep what is of a damaged object under its own hash; return that key, None if the bytes are good after all."""
    opened = await objects.open(res.storage, content.key)
    kept = await objects.put(res.storage, opened.chunks, None)
    return None if kept.key == content.key else kept.key


async def remove_damaged(res: Resources, content: Content, kept_as: str) -> None:
    """Remove a damaged object of the right size, which a put would trust, once it is on record where it is kept."""
    await objects.remove(res.storage, content.key)
    log.warning("object_set_aside", key=content.key, kept_as=kept_as)


async def resync(conn: AsyncConnection, states: Sequence[State]) -> list[Sync]:
    """Begin the sync of those that still are what they were when they were compared, and note who wanted it."""
    rows = [(each.email_id, each.version, each.attempt_number, each.status) for each in states]
    return [Sync(*row) for row in await conn.execute(_RESYNC, arrays_of(_COMPARED, rows))]


async def _reopen(res: Resources, sha256: str) -> bool:
    opened, jobs = await ask(res, lambda conn: reopen(conn, sha256, ACTOR))
    for job in jobs:
        res.dispatcher.dispatch(job)
    return opened > 0


async def _resync(res: Resources, states: Sequence[State]) -> list[Sync]:
    begun = await ask(res, lambda conn: resync(conn, states))
    for sync in begun:
        res.dispatcher.dispatch(sync)
    return begun


async def _is_wrong_still(res: Resources, finding: Finding, state: State | None) -> bool:
    """Say whether nobody ran or carried its e-mail since it was compared, and, if it had none, whether it has none."""
    if state is not None:
        return await ask(res, lambda conn: states_of(conn, [state.email_id])) == [state]
    key = finding.found_key
    if not isinstance(key, str) or "\0" in key:
        return True
    return not await ask(res, lambda conn: known_keys(conn, [key]))


async def _documents(
    there: Collection, findings: Sequence[Finding]
) -> AsyncIterator[tuple[Finding, FoundDocument]]:
    """Read documents of ours again, one by one: each may be large, and all of it is kept."""
    for finding in findings:
        async for some in there.with_keys([finding.found_key]):
            for document in some:
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
    return select(begun.c.id, begun.c.attempt_number).add_cte(record_action(begun, ACTOR, "sync"))


# Made once: to make a statement takes longer than to run it.
_RESYNC = _resync_statement()
