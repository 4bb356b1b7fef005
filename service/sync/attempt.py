"""One attempt at carrying an e-mail over: claim it, write its document to each target, settle it."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from service.errors import HoldfastError, Permanent, Transient
from service.faultpoints import reach
from service.jobs import syncs
from service.jobs.syncs import SyncClaim, SyncClaimRequest, SyncSettlement
from service.outbound.backoff import backoff
from service.postgres.engine import insist
from service.resources import Resources
from service.storage import objects
from service.targets.document import (
    Document,
    EmailRecord,
    FileRow,
    Link,
    make_document,
    permanent_link,
    permanent_links,
    read_each,
)
from service.targets.target import Target
from service.telemetry.metrics import SYNC_DELAY, SYNC_SECONDS, SYNCS, code_label

# A platform kills a process some seconds after it asked it to end.
HAND_BACK_SECONDS = 5.0
# The longest that S3 signs for.
LINK_LASTS = timedelta(days=7)
# Their leases are longer each time: the last of them ends a quarter of an hour after the first began.
MOST_UNSETTLED = 5
# Characters of a reason where a longer one may be what Postgres refuses.
_SHORT = 200

log = structlog.get_logger()


async def sync(res: Resources, email_id: int) -> None:
    """Carry an e-mail over that was rung; where that cannot be done now, the sweep does it later.

    While settings change, who has no target yet is rung, too: to carry it nowhere would count as carried.
    """
    if not res.targets or not res.circuit_breakers.free_slots:
        return
    with res.circuit_breakers.slot():
        for held in await for_certain(res, _claim(res, email_id)):
            await carry(res, held)


async def for_certain(
    res: Resources, taking: Coroutine[Any, Any, Sequence[SyncClaim]]
) -> Sequence[SyncClaim]:
    """Take; if cancelled meanwhile, hand back what was taken, instead of letting its lease run out."""
    task = asyncio.create_task(taking)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=HAND_BACK_SECONDS)
        if task.done():
            await asyncio.gather(*(_hand_back(res, held) for held in task.result()))
        raise


async def carry(res: Resources, held: SyncClaim) -> None:
    """Run one attempt, which we hold; its lease outlasts it."""
    began = time.monotonic()
    if not held.retry_count:
        SYNC_DELAY.observe(held.age)
    bind_contextvars(invocation=held.invocation)
    try:
        end = _settlement(res, held, await _write(res, held))
        done = await _settle(res, end)
    except asyncio.CancelledError:
        await _hand_back(res, held)
        raise
    except HoldfastError as exc:  # Postgres stayed away, or refuses any end: it is due when the lease is over
        log.warning("sync_unsettled", **_names(held), code=exc.code)
        return
    outcome, seconds = end.outcome if done else "lost", time.monotonic() - began
    log.info("sync_ended", **_names(held), outcome=outcome, code=end.error_code, ms=round(1000 * seconds))
    SYNCS.labels(outcome, code_label(end.error_code)).inc()
    SYNC_SECONDS.observe(seconds)
    error = end.error_code or (None if outcome == "synced" else outcome)
    about: dict[str, str | int] = {"outcome": outcome, **_names(held)}
    res.traces.record(held.invocation, "sync", seconds, about, under="webhook", error=error)


async def _settle(res: Resources, end: SyncSettlement) -> bool:
    """End an attempt; where Postgres refuses that end, fail it with a reason that fits into a narrow column."""
    try:
        return await insist(lambda: res.batch(syncs.settle, end))
    except Permanent as exc:
        log.warning("sync_refused", **_names(end.claim), outcome=end.outcome, code=exc.code)
        failed = SyncSettlement(end.claim, "failed", exc.code, exc.message[:_SHORT])
        return await insist(lambda: res.batch(syncs.settle, failed))


async def _claim(res: Resources, email_id: int) -> Sequence[SyncClaim]:
    try:
        held = await res.batch(syncs.claim, SyncClaimRequest(email_id, res.settings.sync_lease))
    except HoldfastError as exc:  # the sweep takes it, if it was not claimed after all
        log.warning("sync_not_claimed", email=email_id, code=exc.code)
        return ()
    return (held,) if held else ()


async def _write(res: Resources, held: SyncClaim) -> list[HoldfastError]:
    """Write its document to each target that does not have it yet; return what was wrong."""
    if held.unsettled >= MOST_UNSETTLED:
        found = (
            f"{held.unsettled} attempts in a row were ended by nobody: their workers died, or were cut off."
        )
        return [Permanent("abandoned", found)]
    record = await insist(lambda: res.batch(read_each, held.email_id))
    if record is None:
        return []  # it runs again by now, and is carried when that is over: this end will be refused
    try:
        document = await _document(res, record)
        errors = await _offer(res, held, document)
        reach(res.settings.fault_points, "after_target", document.content["ticket_id"])
    except HoldfastError as exc:
        return [exc]
    except Exception as exc:
        log.exception("sync_broke", **_names(held))
        return [Transient("internal_error", f"Unexpected {type(exc).__name__}, see the worker's log.")]
    return errors


async def _offer(res: Resources, held: SyncClaim, document: Document) -> list[HoldfastError]:
    """Write it to all targets at once, but not to those that took it while another one was away."""
    what = held.email_id, held.version, held.begun_at
    had = res.accepted.targets_of(what)
    left = [target for target in res.targets if target.name not in had]
    answers = await asyncio.gather(*(_write_to(res, target, document) for target in left))
    errors = [error for error in answers if error]
    took = {target.name for target, error in zip(left, answers, strict=True) if error is None}
    res.accepted.record(what, had | took if errors else ())
    return errors


async def _write_to(res: Resources, target: Target, document: Document) -> HoldfastError | None:
    """Write it, unless the target is left alone just now."""
    if refusal := res.circuit_breakers.refusal(target.name):
        return refusal
    error = None
    try:
        await target.write(document)
    except HoldfastError as exc:
        exc.message = f"{target.name}: {exc.message}"
        error = exc
    res.circuit_breakers.report(target.name, error if isinstance(error, Transient) else None)
    return error


async def _document(res: Resources, record: EmailRecord) -> Document:
    """Make the document, with a link to each file that is stored."""
    if res.settings.sync_links == "api":
        return make_document(record, permanent_links(record, res.settings.public_url))
    stored = [file for file in record.files if file["status"] == "stored"]
    return make_document(record, {file["position"]: await _presigned(res, file) for file in stored})


async def _presigned(res: Resources, file: FileRow) -> Link:
    until = datetime.now(UTC) + LINK_LASTS
    url = await objects.sign(res.storage, file["object_key"], method="GET", expires=LINK_LASTS)
    return (url, until) if url else permanent_link(res.settings.public_url, file)


def _settlement(res: Resources, held: SyncClaim, errors: list[HoldfastError]) -> SyncSettlement:
    """Choose the end that the errors call for."""
    if not errors:
        return SyncSettlement(held, "synced")
    settings = res.settings
    transient = [error for error in errors if isinstance(error, Transient)]
    if transient and held.retry_count < settings.sync_max_retries:
        least, most = settings.sync_retry_min_seconds, settings.sync_retry_max_seconds
        delay = backoff(held.retry_count, least, most, transient)
        return SyncSettlement(held, "released", transient[0].code, transient[0].message, delay)
    return SyncSettlement(held, "failed", errors[0].code, errors[0].message)


async def _hand_back(res: Resources, held: SyncClaim) -> None:
    """Give it to another worker now, and not when its lease is over; a task of its own, for this one is cancelled."""
    task = asyncio.ensure_future(res.batch(syncs.settle, SyncSettlement(held, "handed_back")))
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    done, _ = await asyncio.wait({task}, timeout=HAND_BACK_SECONDS)
    log.info("sync_handed_back", **_names(held), done=bool(done) and not task.exception())


def _names(held: SyncClaim) -> dict[str, int]:
    return {"email": held.email_id, "version": held.version, "attempt": held.attempt_number}
