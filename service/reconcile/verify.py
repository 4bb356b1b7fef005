"""Hash again what is stored, slowly and in steps, claim by whichever worker is there; a kill costs one step."""

import asyncio
import time
from datetime import datetime, timedelta
from hashlib import sha256

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent, Rejected, Transient
from service.postgres.engine import run
from service.reconcile import record, steps
from service.reconcile.calls import RateLimit, ask
from service.reconcile.contents import Content, contents_between, contents_since
from service.reconcile.differences import close, objects_of
from service.reconcile.expected import bounds
from service.reconcile.finding import Finding
from service.reconcile.objects import END, finding_of, require_storage
from service.reconcile.refetch import refetch
from service.reconcile.steps import LeaseLost, StepClaim, StepResult
from service.resources import Resources
from service.storage import objects

MEGABYTES_PER_SECOND = 20  # unless told otherwise
# A step ends after so long, or so many contents; one that is large takes longer.
STEP_SECONDS = 2.0
STEP_CONTENTS = 200
AT_ONCE = 4
MAX_READS = 2  # to read an object; the vendor's client has some of its own
LOOK_SECONDS = 2.0
SOON_SECONDS = 0.05
# How long a worker may take for a step beyond what the bytes take, before another one takes it.
LEASE = timedelta(seconds=60)
# While the storage is away.
RETRY_PAUSE = timedelta(seconds=15)
UNREADABLE = "object_unreadable"

log = structlog.get_logger()


async def begin(res: Resources, *, actor: str, rate: int, since: datetime | None, fix: bool) -> int:
    """Begin to verify all that is stored, or what came since then; workers do it. Return the id of the run.

    At most `rate` megabytes are read in a second. Raises Rejected (409) if one is under way.
    """
    first, _ = await ask(res, lambda conn: bounds(conn, since))
    place = "" if since is None else f"{first}:-1"
    given = {"actor": actor, "rate": rate, "since": since, "fix": "all" if fix else "nothing", "place": place}
    if (run_id := await ask(res, lambda conn: steps.begin(conn, given))) is None:
        raise Rejected(
            409, "already_running", "A verification is under way; `holdfast reconcile list` shows it."
        )
    log.info("verification_begun", run=run_id)
    return run_id


async def verify_for_ever(res: Resources) -> None:
    """Take steps as they fall due, until cancelled."""
    pause = LOOK_SECONDS
    while True:
        await asyncio.sleep(pause)
        try:
            pause = SOON_SECONDS if await step(res) else LOOK_SECONDS
        except Transient as exc:
            log.warning("verification_failed", code=exc.code)
            pause = LOOK_SECONDS


async def step(res: Resources) -> bool:
    """Take one step, if one is due; False where none was."""
    claim = await run(res.engine, res.settings.database_seconds, lambda conn: steps.claim_step(conn, LEASE))
    if claim is None:
        return False
    try:
        done = await _step(res, claim)
    except LeaseLost:
        return True
    except Transient as exc:
        why = (exc.code, exc.message)
        await ask(res, lambda conn: steps.postpone(conn, claim, RETRY_PAUSE, why))
        return True
    except Permanent as exc:
        why = (exc.code, exc.message)
        await ask(res, lambda conn: record.end(conn, claim.id, "failed", *why))
        log.warning("verification_ended", run=claim.id, code=exc.code)
        return True
    if not await ask(res, lambda conn: steps.finish(conn, claim, done)):
        return True
    if done.keys:
        looked, found = objects_of(done.keys, were_read=True), [*done.findings, *done.recorded]
        await ask(res, lambda conn: close(conn, claim.id, looked, found))
    if done.place is None:
        await ask(res, lambda conn: record.end(conn, claim.id, "done"))
        log.info("verification_done", run=claim.id)
    return True


async def _step(res: Resources, claim: StepClaim) -> StepResult:
    contents = await ask(res, lambda conn: _next(conn, claim))
    rate_limit, ends_at, done = RateLimit(claim.rate * 1e6), time.monotonic() + STEP_SECONDS, 0
    step, lost = StepResult(None), []
    while done < len(contents) and time.monotonic() < ends_at:
        some = contents[done : done + AT_ONCE]
        takes = timedelta(seconds=2 * sum(each.size for each in some) / (claim.rate * 1e6))
        if not await ask(res, lambda conn, takes=takes: steps.renew(conn, claim, LEASE + takes)):  # type: ignore[misc]
            return step  # somebody else has it by now, or it was cancelled
        found = await asyncio.gather(*(_verify(res, each, rate_limit) for each in some))
        if any(each and each.kind != "object_damaged" for each in found):
            await require_storage(res)
        done += len(some)
        step.keys += [each.key for each in some]
        step.objects += len(some)
        step.bytes += sum(each.size for each in some)
        step.findings += [each for each in found if each]
        lost += [
            content for content, each in zip(some, found, strict=True) if each and each.kind != UNREADABLE
        ]
    _see_that_not_all_is_unreadable(claim, step)
    if step.findings:
        told = await ask(res, lambda conn: steps.reported_keys(conn, claim, step.keys))
        step.findings = [*{each.key: each for each in step.findings if each.key not in told}.values()]
        lost = [each for each in lost if each.key not in told]
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
    """Read an object, and tell if its bytes are not those of its name, or cannot be had."""
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


def _see_that_not_all_is_unreadable(claim: StepClaim, step: StepResult) -> None:
    """Raise Transient, once, if nothing of a step could be read, which may pass; if it does not, it is about the objects."""
    unreadable = [each for each in step.findings if each.kind == UNREADABLE]
    if unreadable and len(unreadable) == step.objects and claim.error_code != UNREADABLE:
        reason = unreadable[0].detail["reason"]
        raise Transient(UNREADABLE, f"The storage lists objects, and gives none of {step.objects}: {reason}")
