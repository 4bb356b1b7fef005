"""Hash again what is stored, slowly and in steps, taken by whichever worker is there; a kill costs one step."""

import asyncio
import time
from datetime import datetime, timedelta
from hashlib import sha256

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent, Rejected, Transient
from service.postgres.engine import run
from service.reconcile import record, steps
from service.reconcile.contents import Content, contents_between, contents_since
from service.reconcile.differences import close, objects_of
from service.reconcile.expected import bounds
from service.reconcile.finding import Finding
from service.reconcile.objects import END, see_that_it_works, told
from service.reconcile.outages import ask
from service.reconcile.rate_limit import Pace
from service.reconcile.refetch import fetch_anew
from service.reconcile.steps import GivenOn, Step, Taken
from service.resources import Resources
from service.storage import objects

MEGABYTES_PER_SECOND = 20  # unless told otherwise
# A step ends after so long, or so many contents; one that is large takes longer.
STEP_SECONDS = 2.0
STEP_CONTENTS = 200
AT_ONCE = 4
TRIES = 2  # to read an object; the vendor's client has some of its own
LOOK_SECONDS = 2.0
SOON_SECONDS = 0.05
# How long a worker may take for a step beyond what the bytes take, before another one takes it.
PATIENCE = timedelta(seconds=60)
# While the storage is away.
AGAIN = timedelta(seconds=15)
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
    taken = await run(res.engine, res.settings.database_seconds, lambda conn: steps.take(conn, PATIENCE))
    if taken is None:
        return False
    try:
        done = await _step(res, taken)
    except GivenOn:
        return True
    except Transient as exc:
        why = (exc.code, exc.message)
        await ask(res, lambda conn: steps.put_off(conn, taken, AGAIN, why))
        return True
    except Permanent as exc:
        why = (exc.code, exc.message)
        await ask(res, lambda conn: record.end(conn, taken.id, "failed", *why))
        log.warning("verification_ended", run=taken.id, code=exc.code)
        return True
    if not await ask(res, lambda conn: steps.move(conn, taken, done)):
        return True
    if done.keys:
        looked, found = objects_of(done.keys, were_read=True), [*done.findings, *done.noted]
        await ask(res, lambda conn: close(conn, taken.id, looked, found))
    if done.place is None:
        await ask(res, lambda conn: record.end(conn, taken.id, "done"))
        log.info("verification_done", run=taken.id)
    return True


async def _step(res: Resources, taken: Taken) -> Step:
    contents = await ask(res, lambda conn: _next(conn, taken))
    pace, ends_at, done = Pace(taken.rate * 1e6), time.monotonic() + STEP_SECONDS, 0
    step, lost = Step(None), []
    while done < len(contents) and time.monotonic() < ends_at:
        some = contents[done : done + AT_ONCE]
        takes = timedelta(seconds=2 * sum(each.size for each in some) / (taken.rate * 1e6))
        if not await ask(res, lambda conn, takes=takes: steps.keep(conn, taken, PATIENCE + takes)):  # type: ignore[misc]
            return step  # somebody else has it by now, or it was cancelled
        found = await asyncio.gather(*(_verify(res, each, pace) for each in some))
        if any(each and each.kind != "object_damaged" for each in found):
            await see_that_it_works(res)
        done += len(some)
        step.keys += [each.key for each in some]
        step.objects += len(some)
        step.bytes += sum(each.size for each in some)
        step.findings += [each for each in found if each]
        lost += [
            content for content, each in zip(some, found, strict=True) if each and each.kind != UNREADABLE
        ]
    _see_that_not_all_is_unreadable(taken, step)
    if step.findings:
        told = await ask(res, lambda conn: steps.told_of(conn, taken, step.keys))
        step.findings = [*{each.key: each for each in step.findings if each.key not in told}.values()]
        lost = [each for each in lost if each.key not in told]
    if taken.fix == "all" and lost:
        await fetch_anew(res, taken, step, lost)
    if contents:
        step.place = _place(taken, contents[done - 1])
    return step


async def _next(conn: AsyncConnection, taken: Taken) -> list[Content]:
    if ":" in taken.place:
        email_id, position = map(int, taken.place.split(":"))
        return await contents_since(conn, email_id, position, STEP_CONTENTS)
    return await contents_between(conn, taken.place, END, STEP_CONTENTS)


def _place(taken: Taken, last: Content) -> str:
    return f"{last.email_id}:{last.position}" if ":" in taken.place else last.sha256


async def _verify(res: Resources, content: Content, pace: Pace) -> Finding | None:
    """Read an object, and tell if its bytes are not those of its name, or cannot be had."""
    reason = ""
    for _ in range(TRIES):
        try:
            return await _read(res, content, pace)
        except Permanent:
            return told("object_missing", content)
        except Transient as exc:
            reason = exc.message
    return told(UNREADABLE, content, reason=reason)


async def _read(res: Resources, content: Content, pace: Pace) -> Finding | None:
    opened = await objects.open(res.storage, content.key)
    found = sha256()
    async for chunk in opened.chunks:
        await pace.spend(len(chunk))
        await asyncio.to_thread(found.update, chunk)
    if opened.size == content.size and found.hexdigest() == content.sha256:
        return None
    return told("object_damaged", content, size=opened.size, actual_sha256=found.hexdigest())


def _see_that_not_all_is_unreadable(taken: Taken, step: Step) -> None:
    """Raise Transient, once, if nothing of a step could be read, which may pass; if it does not, it is about the objects."""
    unreadable = [each for each in step.findings if each.kind == UNREADABLE]
    if unreadable and len(unreadable) == step.objects and taken.error_code != UNREADABLE:
        reason = unreadable[0].detail["reason"]
        raise Transient(UNREADABLE, f"The storage lists objects, and gives none of {step.objects}: {reason}")
