"""An attempt from claim to settlement, and the leases of all that run here."""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import structlog
from structlog.contextvars import bind_contextvars

from service.capture.files import capture
from service.capture.meter import place
from service.capture.retry_policy import worth_another_attempt
from service.errors import HoldfastError, Permanent, Transient
from service.faultpoints import reach
from service.jobs import attempts
from service.jobs.attempts import Claim, ClaimRefusal, ClaimRequest, Failure, Settlement, SyncStatus
from service.jobs.waiting import Job, Sync
from service.outbound.backoff import backoff
from service.postgres.engine import insist, run
from service.resources import Resources
from service.telemetry.metrics import ATTEMPTS, PROCESSING, QUEUE_DELAY, code_label

# A platform kills a process some seconds after it asked it to end.
HAND_BACK_SECONDS = 5.0
# Characters of a reason where a longer one may be what Postgres refuses.
_SHORT = 200

log = structlog.get_logger()


async def process(res: Resources, email_id: int, attempt_number: int) -> None:
    """Run one attempt, from claim to settlement; do nothing if somebody else has the job."""
    claim = await _claim_for_certain(res, Job(email_id, attempt_number))
    if claim is None:
        return
    began = time.monotonic()
    bind_contextvars(invocation=claim.invocation)
    log.info("attempt_started", **_names(claim), age_ms=round(1000 * claim.age))
    if claim.attempt_number == 1:
        QUEUE_DELAY.observe(max(claim.waited, 0))
    outcome, code = "unsettled", None
    res.claims.add(claim.fencing_token)
    try:
        reach(res.settings.fault_points, "after_claim", claim.ticket_id)
        errors = await capture(res, claim)
        code = errors[0].code if errors else None
        outcome = await _settle(res, claim, errors)
    except asyncio.CancelledError:
        outcome = "handed_back"
        await _hand_back(res, claim)
        raise
    except HoldfastError as exc:  # Postgres stayed away, or refuses any end: the job is rescued
        log.warning("attempt_unsettled", **_names(claim), code=exc.code)
    finally:
        res.claims.discard(claim.fencing_token)
        _tell(res, claim, outcome, code, time.monotonic() - began)


async def renew_leases(res: Resources) -> None:
    """Keep the jobs that this process works on, all in one statement; runs until cancelled."""
    while True:
        await asyncio.sleep(res.settings.lease_seconds / 3)
        if claims := frozenset(res.claims):
            renew = partial(attempts.renew, held=claims, lease=res.settings.lease)
            held = await insist(partial(run, res.engine, res.settings.database_seconds, renew))
            for email_id, attempt in (claims - held) & res.claims:
                log.warning("lease_lost", email=email_id, attempt=attempt)


async def _claim_for_certain(res: Resources, job: Job) -> Claim | None:
    """Claim; if cancelled meanwhile, hand back what was claimed, instead of letting its lease run out."""
    claiming = asyncio.create_task(_claim(res, job))
    try:
        return await asyncio.shield(claiming)
    except asyncio.CancelledError:
        await asyncio.wait({claiming}, timeout=HAND_BACK_SECONDS)
        if claiming.done() and (claim := claiming.result()):
            await _hand_back(res, claim)
        raise


async def _claim(res: Resources, job: Job) -> Claim | None:
    worker = f"{res.settings.worker_name}:{os.getpid()}"
    try:
        return await res.batch(attempts.claim, ClaimRequest(job, worker, res.settings.lease))
    except Transient as exc:  # the sweep rings again, if it was not claimed after all
        log.warning("claim_failed", email=job.email_id, attempt=job.attempt_number, code=exc.code)
    except Permanent as exc:  # a constraint that is not ours: waiting does not help
        log.warning("claim_refused", email=job.email_id, attempt=job.attempt_number, code=exc.code)
        with suppress(HoldfastError):
            await _fail_unclaimed(res, job, exc)
    return None


async def _fail_unclaimed(res: Resources, job: Job, error: Permanent) -> None:
    """Fail a job whose claim Postgres refuses; a retry by hand tries again."""
    end = ClaimRefusal(job, Failure(error.code, error.message[:_SHORT]), res.settings.sync_status)
    is_failed = await res.batch(attempts.refuse, end)
    if is_failed and end.sync_status == "pending":
        res.dispatcher.dispatch(Sync(job.email_id, job.attempt_number))


async def _settle(res: Resources, claim: Claim, errors: list[HoldfastError]) -> str:
    """Leave the attempt for the state that its errors call for; return the outcome."""
    transient = worth_another_attempt(res, claim, errors)
    sync = res.settings.sync_status
    if not errors:
        end = Settlement(claim, "completed", sync_status=sync)
    elif transient:
        counts = any(error.counts for error in transient)
        least, most = res.settings.retry_min_seconds, res.settings.retry_max_seconds
        # What costs no retry must not be tried in a tight loop, whatever pause was asked for.
        retries = claim.retry_count if counts else max(1, claim.retry_count)
        delay = backoff(retries, least, most, transient)
        end = Settlement(claim, "released" if counts else "handed_back", _failure(transient), delay)
    else:
        end = Settlement(claim, "failed", _failure(errors), sync_status=sync)
    try:
        held = await insist(lambda: res.batch(attempts.settle, end))
    except Permanent as exc:
        log.warning("settlement_refused", **_names(claim), outcome=end.outcome, code=exc.code)
        transient, end = [], _refused(claim, exc, sync)
        held = await insist(lambda: res.batch(attempts.settle, end))
    if held and not transient and sync == "pending":
        res.dispatcher.dispatch(Sync(claim.email_id, claim.attempt_number))
    return end.outcome if held else "lost"


def _tell(res: Resources, claim: Claim, outcome: str, code: str | None, seconds: float) -> None:
    """Tell in one line, in metrics and in the trace how an attempt ended."""
    log.info("attempt_ended", **_names(claim), outcome=outcome, code=code, ms=round(1000 * seconds))
    ATTEMPTS.labels(outcome, code_label(code)).inc()
    PROCESSING.observe(seconds)
    error = code or (None if outcome == "completed" else outcome)
    about: dict[str, str | int] = {"outcome": outcome, **_names(claim)}
    res.traces.record(
        claim.invocation, "attempt", seconds, about, at=place(claim), under="webhook", error=error
    )


def _refused(claim: Claim, error: Permanent, sync: SyncStatus) -> Settlement:
    """Fail with a short reason, which fits into a narrow column."""
    reason = Failure(error.code, error.message[:_SHORT])
    return Settlement(claim, "failed", reason, sync_status=sync)


def _failure(errors: Sequence[HoldfastError]) -> Failure:
    first, others = errors[0], len(errors) - 1
    also = f" (and {others} more of its files)" if others else ""
    return Failure(first.code, f"{first.message}{also}", first.host)


async def _hand_back(res: Resources, claim: Claim) -> None:
    """Give the job to another worker now, and not when the lease has run out."""
    # A task of its own: this one is being cancelled, perhaps more than once.
    task = asyncio.ensure_future(res.batch(attempts.settle, Settlement(claim, "handed_back")))
    task.add_done_callback(
        lambda task: task.cancelled() or task.exception()
    )  # it is in the line below, or late
    done, _ = await asyncio.wait({task}, timeout=HAND_BACK_SECONDS)
    log.info("attempt_handed_back", **_names(claim), done=bool(done) and not task.exception())


def _names(claim: Claim) -> dict[str, int]:
    return {"email": claim.email_id, "attempt": claim.attempt_number}
