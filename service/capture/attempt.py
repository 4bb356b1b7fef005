"""One attempt from claim to settlement, and the leases of all attempts that run here."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import structlog

from service.capture.files import capture
from service.capture.retry_policy import worth_another_attempt
from service.capture.telemetry import names, observed
from service.capture.word_index import write_words
from service.errors import HoldfastError, Permanent, Transient
from service.jobs import attempts, identity
from service.jobs.attempts import Claim, ClaimRefusal, ClaimRequest, Failure, Settlement
from service.jobs.shutdown import claim_or_hand_back, settle_at_shutdown
from service.jobs.waiting import Job, Sync
from service.outbound.backoff import backoff
from service.resources import Resources

# Characters of a reason, where a longer one may be what Postgres refuses.
_SHORT = 200

log = structlog.get_logger()


async def process(res: Resources, email_id: int, attempt_number: int) -> None:
    """Run one attempt, from claim to settlement; do nothing where another worker has the job."""
    claiming = _claim(res, Job(email_id, attempt_number))
    for claim in await claim_or_hand_back(claiming, partial(_hand_back, res)):
        res.claims.add(claim.fencing_token)
        try:
            with observed(res, claim) as result:
                if await _merge_known(res, claim):
                    result.outcome = "handed_back"
                    continue
                errors = await capture(res, claim)
                result.code = errors[0].code if errors else None
                result.outcome = await _settle(res, claim, errors)
            with suppress(HoldfastError):  # otherwise the words that are missing are written later
                await res.batch(write_words, claim.email_id)
        except asyncio.CancelledError:
            await _hand_back(res, claim)
            raise
        finally:
            res.claims.discard(claim.fencing_token)


async def renew_leases(res: Resources) -> None:
    """Renew the leases of all attempts of this process, in one statement; runs until cancelled."""
    while True:
        await asyncio.sleep(res.settings.lease_seconds / 3)
        if claims := frozenset(res.claims):
            renewed = await res.insist(partial(attempts.renew, held=claims, lease=res.settings.lease))
            for email_id, attempt in (claims - renewed) & res.claims:
                log.warning("lease_lost", email=email_id, attempt=attempt)


async def _claim(res: Resources, job: Job) -> Sequence[Claim]:
    worker = f"{res.settings.worker_name}:{os.getpid()}"
    try:
        claim = await res.batch(attempts.claim, ClaimRequest(job, worker, res.settings.lease))
    except Transient as exc:  # the sweep dispatches the job again, if it was not claimed after all
        log.warning("claim_failed", email=job.email_id, attempt=job.attempt_number, code=exc.code)
    except Permanent as exc:  # a constraint of another system: waiting does not help
        log.warning("claim_refused", email=job.email_id, attempt=job.attempt_number, code=exc.code)
        with suppress(HoldfastError):
            await _fail_unclaimed(res, job, exc)
    else:
        return (claim,) if claim else ()
    return ()


async def _fail_unclaimed(res: Resources, job: Job, error: Permanent) -> None:
    """Fail a job whose claim Postgres refuses; an operator may retry it."""
    end = ClaimRefusal(job, _short(error), res.settings.sync_status)
    is_failed = await res.batch(attempts.refuse, end)
    if is_failed and end.sync_status == "pending":
        res.dispatcher.dispatch(Sync(job.email_id, job.attempt_number))


async def _merge_known(res: Resources, claim: Claim) -> bool:
    """Merge an e-mail whose request another one has already; return whether that was done."""
    if claim.known_as is None:
        return False
    is_merged = await res.insist(partial(identity.merge, into=claim.known_as, gone=claim.email_id))
    log.info("email_merged", **names(claim), into=claim.known_as, done=is_merged)
    return is_merged


async def _settle(res: Resources, claim: Claim, errors: Sequence[HoldfastError]) -> str:
    """Settle the attempt as its errors require, and dispatch the sync; return the outcome."""
    end = _settlement(res, claim, errors)
    try:
        is_settled = await res.batch.insist(attempts.settle, end)
    except Permanent as exc:
        log.warning("settlement_refused", **names(claim), outcome=end.outcome, code=exc.code)
        end = Settlement(claim, "failed", _short(exc), sync_status=res.settings.sync_status)
        is_settled = await res.batch.insist(attempts.settle, end)
    if is_settled and end.sync_status == "pending":
        res.dispatcher.dispatch(Sync(claim.email_id, claim.attempt_number))
    return end.outcome if is_settled else "lost"


def _settlement(res: Resources, claim: Claim, errors: Sequence[HoldfastError]) -> Settlement:
    """Choose the settlement that the errors require; only one that ends the job begins its sync."""
    if not errors:
        return Settlement(claim, "completed", sync_status=res.settings.sync_status)
    transient = worth_another_attempt(res, claim, errors)
    if not transient:
        return Settlement(claim, "failed", _failure(errors), sync_status=res.settings.sync_status)
    counts = any(error.counts for error in transient)
    least, most = res.settings.retry_min_seconds, res.settings.retry_max_seconds
    # Attempts that cost no retry must not follow in a tight loop, whatever delay the other side asked for.
    retries = claim.retry_count if counts else max(1, claim.retry_count)
    delay = backoff(retries, least, most, transient)
    return Settlement(claim, "released" if counts else "handed_back", _failure(transient), delay)


def _failure(errors: Sequence[HoldfastError]) -> Failure:
    first = errors[0]
    # A file may have several: of this attempt, and the one that is on record.
    others = len({error.position for error in errors} - {first.position, None})
    also = f" (and {others} more of its files)" if others else ""
    return Failure(first.code, f"{first.message}{also}", first.host)


def _short(error: Permanent) -> Failure:
    """Shorten a reason so that it fits into a narrow column."""
    return Failure(error.code, error.message[:_SHORT])


async def _hand_back(res: Resources, claim: Claim) -> None:
    """Return the job to the queue at once, instead of at the end of its lease."""
    done = await settle_at_shutdown(res.batch(attempts.settle, Settlement(claim, "handed_back")))
    log.info("attempt_handed_back", **names(claim), done=done)
