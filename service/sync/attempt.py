"""One attempt at a sync: claim it, write the e-mail's document to each target, settle it."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from structlog.contextvars import bind_contextvars

from service.errors import HoldfastError, Permanent, Transient
from service.faultpoints import reach
from service.jobs import syncs
from service.jobs.shutdown import claim_or_hand_back, settle_at_shutdown
from service.jobs.syncs import SyncClaim, SyncClaimRequest, SyncSettlement
from service.outbound.backoff import backoff
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
from service.targets.merged import make_merged_document, read_replaced
from service.targets.target import write_to
from service.telemetry.metrics import SYNC_DELAY, SYNC_SECONDS, SYNCS, code_label

# The longest time for which S3 signs.
LINK_LASTS = timedelta(days=7)
# Leases double with each unsettled attempt: the last of these ends a quarter of an hour after the first began.
MOST_UNSETTLED = 5
# Characters of a reason, where a longer one may be what Postgres refuses.
_SHORT = 200

log = structlog.get_logger()


async def sync(res: Resources, email_id: int) -> None:
    """Sync an e-mail from the queue; where that is not possible now, the sweep does it later.

    A process without a target does nothing: while settings change, other processes may have one already.
    """
    if not res.targets or not res.circuit_breakers.free_slots:
        return
    with res.circuit_breakers.slot():
        for claim in await claim_or_hand_back(_claim(res, email_id), partial(hand_back, res)):
            await attempt(res, claim)


async def attempt(res: Resources, claim: SyncClaim) -> None:
    """Run one claimed attempt; its lease is longer than its timeouts."""
    try:
        with _observed(res, claim) as result:
            settlement = _settlement(res, claim, await _write(res, claim))
            result.code = settlement.error_code
            result.outcome = settlement.outcome if await _settle(res, settlement) else "lost"
    except asyncio.CancelledError:
        await hand_back(res, claim)
        raise


async def hand_back(res: Resources, claim: SyncClaim) -> None:
    """Make the sync due at once, instead of at the end of its lease."""
    done = await settle_at_shutdown(res.batch(syncs.settle, SyncSettlement(claim, "handed_back")))
    log.info("sync_handed_back", **_names(claim), done=done)


@dataclass(slots=True)
class _Result:
    outcome: str = ""
    code: str | None = None


@contextmanager
def _observed(res: Resources, claim: SyncClaim) -> Iterator[_Result]:
    """Log, count and trace the attempt that runs in the block and sets the result.

    Swallows HoldfastError: Postgres was away or refused every settlement, and the sync is due when its lease ends.
    """
    began, result = time.monotonic(), _Result()
    if not claim.retry_count:
        SYNC_DELAY.observe(claim.age)
    bind_contextvars(invocation=claim.invocation)
    try:
        yield result
    except HoldfastError as exc:
        log.warning("sync_unsettled", **_names(claim), code=exc.code)
        return
    outcome, code, seconds = result.outcome, result.code, time.monotonic() - began
    log.info("sync_ended", **_names(claim), outcome=outcome, code=code, ms=round(1000 * seconds))
    SYNCS.labels(outcome, code_label(code)).inc()
    SYNC_SECONDS.observe(seconds)
    error = code or (None if outcome == "synced" else outcome)
    about: dict[str, str | int] = {"outcome": outcome, **_names(claim)}
    res.traces.record(claim.invocation, "sync", seconds, about, under="webhook", error=error)


async def _claim(res: Resources, email_id: int) -> Sequence[SyncClaim]:
    try:
        claim = await res.batch(syncs.claim, SyncClaimRequest(email_id, res.settings.sync_lease))
    except HoldfastError as exc:  # the sweep claims it later, if it was not claimed after all
        log.warning("sync_not_claimed", email=email_id, code=exc.code)
        return ()
    return (claim,) if claim else ()


async def _write(res: Resources, claim: SyncClaim) -> list[HoldfastError]:
    """Write the document to each target that does not have it yet; return the errors."""
    if claim.unsettled >= MOST_UNSETTLED:
        found = f"{claim.unsettled} attempts in a row were abandoned: their workers died or lost Postgres."
        return [Permanent("abandoned", found)]
    record = await res.batch.insist(read_each, claim.email_id)
    if record is None:
        return []  # its job runs again: this settlement will be refused, and the end of the job starts a new sync
    try:
        document = await _document(res, record)
        replaced = await res.batch.insist(read_replaced, claim.email_id)
        errors = await _write_to_all(res, claim, [document, *map(make_merged_document, replaced)])
        reach(res.settings.fault_points, "after_target", document.content["ticket_id"])
    except HoldfastError as exc:
        return [exc]
    except Exception as exc:
        log.exception("sync_broke", **_names(claim))
        return [Transient("internal_error", f"Unexpected {type(exc).__name__}, see the worker's log.")]
    return errors


async def _write_to_all(
    res: Resources, claim: SyncClaim, documents: Sequence[Document]
) -> list[HoldfastError]:
    """Write to all targets at once, except those that accepted these documents while another one was down."""
    version = claim.email_id, claim.version, claim.begun_at
    accepted = res.accepted.targets_of(version)
    targets = [target for target in res.targets if target.name not in accepted]
    results = await asyncio.gather(*(write_to(target, documents, res.circuit_breakers) for target in targets))
    errors = [error for error in results if error]
    written = {target.name for target, error in zip(targets, results, strict=True) if error is None}
    res.accepted.record(version, accepted | written if errors else ())
    return errors


async def _document(res: Resources, record: EmailRecord) -> Document:
    """Make the document, with a link to each stored file."""
    public_url = res.settings.public_url
    if res.settings.sync_links == "api":
        return make_document(record, permanent_links(record, public_url), public_url)
    stored = [file for file in record.files if file["status"] == "stored"]
    links = {file["position"]: await _presigned(res, file) for file in stored}
    return make_document(record, links, public_url)


async def _presigned(res: Resources, file: FileRow) -> Link:
    until = datetime.now(UTC) + LINK_LASTS
    url = await objects.sign(res.storage, file["object_key"], method="GET", expires=LINK_LASTS)
    return (url, until) if url else permanent_link(res.settings.public_url, file)


def _settlement(res: Resources, claim: SyncClaim, errors: Sequence[HoldfastError]) -> SyncSettlement:
    """Choose the settlement that the errors require."""
    if not errors:
        return SyncSettlement(claim, "synced")
    settings = res.settings
    transient = [error for error in errors if isinstance(error, Transient)]
    if transient and claim.retry_count < settings.sync_max_retries:
        least, most = settings.sync_retry_min_seconds, settings.sync_retry_max_seconds
        delay = backoff(claim.retry_count, least, most, transient)
        return SyncSettlement(claim, "released", transient[0].code, transient[0].message, delay)
    return SyncSettlement(claim, "failed", errors[0].code, errors[0].message)


async def _settle(res: Resources, settlement: SyncSettlement) -> bool:
    """Settle the attempt; where Postgres refuses that, fail it with a reason that fits into a narrow column."""
    try:
        return await res.batch.insist(syncs.settle, settlement)
    except Permanent as exc:
        log.warning("sync_refused", **_names(settlement.claim), outcome=settlement.outcome, code=exc.code)
        failed = SyncSettlement(settlement.claim, "failed", exc.code, exc.message[:_SHORT])
        return await res.batch.insist(syncs.settle, failed)


def _names(claim: SyncClaim) -> dict[str, int]:
    return {"email": claim.email_id, "version": claim.version, "attempt": claim.attempt_number}
