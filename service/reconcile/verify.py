"""Verify stored objects by their hashes, at a limited rate; any worker claims the next step, a crash costs one."""

import asyncio
import time
from datetime import datetime, timedelta
from hashlib import sha256

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent, Rejected, Transient, refuse_future
from service.reconcile import record, steps
from service.reconcile.calls import RateLimit
from service.reconcile.contents import BEFORE_ALL, Content, contents_between, contents_since
from service.reconcile.differences import close, objects_of
from service.reconcile.expected import bounds
from service.reconcile.finding import Finding
from service.reconcile.objects import END, finding_of, require_storage, still_named
from service.reconcile.refetch import refetch
from service.reconcile.steps import LeaseLost, StepClaim, StepResult
from service.resources import Resources, repeat_steps
from service.storage import objects

# A step ends after this time or this many contents; a large object may take longer.
STEP_SECONDS = 2.0
STEP_CONTENTS = 200
CONCURRENT_READS = 4
MAX_READS = 2  # per object; the storage client retries too
LOOK_SECONDS = 2.0
SOON_SECONDS = 0.05
# The lease of a step, in addition to the time that its bytes take.
LEASE = timedelta(seconds=60)
# The pause while the storage is down.
RETRY_PAUSE = timedelta(seconds=15)
UNREADABLE = "object_unreadable"

log = structlog.get_logger()


async def begin(res: Resources, *, actor: str, rate: int, since: datetime | None, fix: bool) -> int:
    """Begin a verification of all stored objects, or of those since a time; workers run it. Return the id.

    `rate` is in megabytes per second. Raises Rejected (409) if one is running.
    """
    refuse_future(since)
    first, _ = await res.insist(lambda conn: bounds(conn, since))
    place = "" if since is None else f"{first}:{BEFORE_ALL}"
    given = {"actor": actor, "rate": rate, "since": since, "fix": "all" if fix else "nothing", "place": place}
    if (run_id := await res.insist(lambda conn: steps.begin(conn, given))) is None:
        raise Rejected(
            409, "already_running", "A verification is running; `holdfast reconcile list` shows it."
        )
    log.info("verification_begun", run=run_id)
    return run_id


async def verify_for_ever(res: Resources) -> None:
    """Run steps as they become due, until cancelled."""
    await repeat_steps(
        lambda: step(res), soon=SOON_SECONDS, idle=LOOK_SECONDS, event="verification_step_failed"
    )


async def step(res: Resources) -> bool:
    """Run one step if one is due; return whether one was."""
    claim = await res.run(lambda conn: steps.claim_step(conn, LEASE))
    if claim is None:
        return False
    try:
        done = await _step(res, claim)
    except LeaseLost:
        return True
    except Transient as exc:
        reason = (exc.code, exc.message)
        await res.insist(lambda conn: steps.postpone(conn, claim, RETRY_PAUSE, reason))
        return True
    except Permanent as exc:
        reason = (exc.code, exc.message)
        await res.insist(lambda conn: record.end(conn, claim.id, "failed", *reason))
        log.warning("verification_ended", run=claim.id, code=exc.code)
        return True
    if not await res.insist(lambda conn: steps.finish(conn, claim, done)):
        return True
    if done.keys:
        compared, found = objects_of(done.keys, were_read=True), [*done.findings, *done.recorded]
        await res.insist(lambda conn: close(conn, claim.id, compared, found))
    if done.place is None:
        await res.insist(lambda conn: record.end(conn, claim.id, "done"))
        log.info("verification_done", run=claim.id)
    return True


async def _step(res: Resources, claim: StepClaim) -> StepResult:
    contents = await res.insist(lambda conn: _next(conn, claim))
    rate_limit, ends_at, done = RateLimit(claim.rate * 1e6), time.monotonic() + STEP_SECONDS, 0
    step, lost = StepResult(None), []
    while done < len(contents) and time.monotonic() < ends_at:
        batch = contents[done : done + CONCURRENT_READS]
        takes = timedelta(seconds=2 * sum(each.size for each in batch) / (claim.rate * 1e6))
        if not await res.insist(lambda conn, takes=takes: steps.renew(conn, claim, LEASE + takes)):  # type: ignore[misc]
            return step  # the lease is lost, or the verification was cancelled
        found = await asyncio.gather(*(_verify(res, each, rate_limit) for each in batch))
        if any(each and each.kind != "object_damaged" for each in found):
            await require_storage(res)
        wrong = [content for content, each in zip(batch, found, strict=True) if each]
        named = await still_named(res, wrong)
        found = [
            each if content.sha256 in named else None for content, each in zip(batch, found, strict=True)
        ]
        done += len(batch)
        step.keys += [each.key for each in batch]
        step.objects += len(batch)
        step.bytes += sum(each.size for each in batch)
        step.findings += [each for each in found if each]
        lost += [
            content for content, each in zip(batch, found, strict=True) if each and each.kind != UNREADABLE
        ]
    _require_any_readable(claim, step)
    if step.findings:
        reported = await res.insist(lambda conn: steps.reported_keys(conn, claim, step.keys))
        step.findings = [*{each.key: each for each in step.findings if each.key not in reported}.values()]
        lost = [each for each in lost if each.key not in reported]
    if claim.fix == "all" and lost:
        await refetch(res, claim, step, lost)
    if contents:
        step.place = _place(claim, contents[done - 1])
    return step


async def _next(conn: AsyncConnection, claim: StepClaim) -> list[Content]:
    if ":" in claim.place:
        email_id, position = map(int, claim.place.split(":"))
        return await contents_since(conn, email_id, position, STEP_CONTENTS)
    return await contents_between(conn, claim.place, END, STEP_CONTENTS)


def _place(claim: StepClaim, last: Content) -> str:
    return f"{last.email_id}:{last.position}" if ":" in claim.place else last.sha256


async def _verify(res: Resources, content: Content, rate_limit: RateLimit) -> Finding | None:
    """Read an object; return a finding if it is missing, unreadable or does not match its hash."""
    reason = ""
    for _ in range(MAX_READS):
        try:
            return await _read(res, content, rate_limit)
        except Permanent:
            return finding_of("object_missing", content)
        except Transient as exc:
            reason = exc.message
    return finding_of(UNREADABLE, content, reason=reason)


async def _read(res: Resources, content: Content, rate_limit: RateLimit) -> Finding | None:
    opened = await objects.open(res.storage, content.key)
    found = sha256()
    async for chunk in opened.chunks:
        await rate_limit.spend(len(chunk))
        await asyncio.to_thread(found.update, chunk)
    if opened.size == content.size and found.hexdigest() == content.sha256:
        return None
    return finding_of("object_damaged", content, size=opened.size, actual_sha256=found.hexdigest())


def _require_any_readable(claim: StepClaim, step: StepResult) -> None:
    """Raise Transient once if no object of a step was readable; if that happens again, the objects are the cause."""
    unreadable = [each for each in step.findings if each.kind == UNREADABLE]
    if unreadable and len(unreadable) == step.objects and claim.error_code != UNREADABLE:
        reason = unreadable[0].detail["reason"]
        raise Transient(
            UNREADABLE, f"The storage lists objects, but none of {step.objects} could be read: {reason}"
        )
