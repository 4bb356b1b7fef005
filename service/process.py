"""One attempt at a job: claim it, download and store what is missing, settle it."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from service.attachments import File, files_of, mark_stored, mark_unstored
from service.database import connect
from service.download.answers import Expected, Limits
from service.download.transfer import download
from service.errors import HoldfastError, Permanent, Transient
from service.jobs import running
from service.jobs.running import Claim, Failure
from service.jobs.waiting import Job
from service.metrics import ATTACHMENT_BYTES, ATTACHMENTS, ATTEMPTS
from service.resources import Resources
from service.storage.objects import Stored, put

T = TypeVar("T")

# What was downloaded is worth waiting for Postgres; longer than this, and the lease is lost anyway.
INSIST_SECONDS = 60.0
# A platform kills a process some seconds after it asked it to end.
HAND_BACK_SECONDS = 5.0

log = structlog.get_logger()


async def process(res: Resources, email_id: int, attempt_number: int) -> None:
    """Run one attempt, from claim to settlement; do nothing if somebody else has the job."""
    worker = f"{res.settings.worker_name}:{os.getpid()}"
    async with connect(res.engine) as conn:
        claim = await running.claim(conn, Job(email_id, attempt_number), worker, res.settings.lease)
    if claim is None:
        return
    outcome = "unsettled"
    res.claims.add(claim.held)
    try:
        outcome = await _settle(res, claim, await _capture(res, claim))
    except asyncio.CancelledError:
        outcome = "handed_back"
        await _hand_back(res, claim)
        raise
    except Transient as exc:  # Postgres stayed away: the job is rescued when it is back
        log.warning("attempt_unsettled", **_names(claim), code=exc.code)
    finally:
        res.claims.discard(claim.held)
        ATTEMPTS.labels(outcome).inc()


async def renew_leases(res: Resources) -> None:
    """Keep the jobs that this process works on, all in one statement; runs until cancelled."""
    while True:
        await asyncio.sleep(res.settings.lease_seconds / 3)
        if claims := frozenset(res.claims):
            held = await _insist(res, partial(running.renew, held=claims, lease=res.settings.lease))
            for email_id, attempt in (claims - held) & res.claims:
                log.warning("lease_lost", email=email_id, attempt=attempt)


async def _capture(res: Resources, claim: Claim) -> list[HoldfastError]:
    """Fetch what is missing; return what is wrong with this e-mail's files, now or from before."""
    try:
        async with asyncio.timeout(res.settings.attempt_seconds):
            files = await _insist(res, lambda conn: files_of(conn, claim.email_id))
            async with asyncio.TaskGroup() as group:
                missing = [file for file in files if file.status == "pending"]
                fetches = [group.create_task(_fetch(res, claim, file)) for file in missing]
    except TimeoutError:
        return [
            Transient(
                "attempt_timeout", f"The files were not there after {res.settings.attempt_seconds:g} s."
            )
        ]
    before = [Permanent(f.error_code or "", f.error or "") for f in files if f.status == "failed"]
    return [*before, *(error for fetch in fetches if (error := fetch.result()))]


async def _fetch(res: Resources, claim: Claim, file: File) -> HoldfastError | None:
    """Make one file stored, or note and return why that could not be."""
    error: HoldfastError
    try:
        stored = await _download(res, file)
        await _insist(res, lambda conn: mark_stored(conn, claim.held, file.position, stored))
    except HoldfastError as exc:
        error = exc
    except Exception as exc:
        log.exception("attachment_broke", **_names(claim), position=file.position)
        error = Transient("internal_error", f"Unexpected {type(exc).__name__}, see the worker's log.")
    else:
        ATTACHMENTS.labels("stored").inc()
        ATTACHMENT_BYTES.inc(stored.size)
        return None
    ATTACHMENTS.labels(error.code).inc()
    log.info("attachment_not_stored", **_names(claim), position=file.position, code=error.code)
    final = not isinstance(error, Transient) or claim.retry_count >= res.settings.max_retries
    await _insist(res, lambda conn: mark_unstored(conn, claim.held, file.position, error, final=final))
    return error


async def _download(res: Resources, file: File) -> Stored:
    settings = res.settings
    limits = Limits(settings.max_attachment_bytes, settings.download_seconds, settings.download_stall_seconds)
    expected = Expected(file.file_name, file.declared_type, file.declared_size)
    host = _host(file.source_url)
    slots = res.host_slots.setdefault(host, asyncio.Semaphore(settings.downloads_per_host))
    async with slots, res.slots:
        stream = download(
            res.session,
            res.egress,
            file.source_url,
            expected=expected,
            limits=limits,
            credentials=res.credentials,
        )
        async with stream as chunks:
            return await put(res.storage, chunks, file.file_name)


async def _settle(res: Resources, claim: Claim, errors: list[HoldfastError]) -> str:
    """Leave the attempt for the state that its errors call for; return the outcome."""
    transient = [error for error in errors if isinstance(error, Transient)]
    if not errors:
        outcome = "completed"
        held = await _insist(res, lambda conn: running.complete(conn, claim))
    elif transient and claim.retry_count < res.settings.max_retries:
        outcome = "released"
        delay = _delay(res, claim, transient)
        held = await _insist(res, lambda conn: running.release(conn, claim, _failure(transient), delay))
    else:
        outcome = "failed"
        held = await _insist(res, lambda conn: running.fail(conn, claim, _failure(errors)))
    outcome = outcome if held else "lost"
    log.info("attempt_ended", **_names(claim), outcome=outcome, code=errors[0].code if errors else None)
    return outcome


def _delay(res: Resources, claim: Claim, errors: list[Transient]) -> timedelta:
    """Wait as long as the slowest asked for, else exponentially longer with each retry, with jitter."""
    least, most = res.settings.retry_min_seconds, res.settings.retry_max_seconds
    asked = [error.retry_after.total_seconds() for error in errors if error.retry_after is not None]
    if asked:
        return timedelta(seconds=min(max(asked), most))
    upper = min(least * 2 ** (claim.retry_count + 1), most)
    return timedelta(seconds=random.uniform(max(least, upper / 2), upper))  # noqa: S311 no secret


def _failure(errors: Sequence[HoldfastError]) -> Failure:
    first, others = errors[0], len(errors) - 1
    also = f" (and {others} more of its files)" if others else ""
    return Failure(first.code, f"{first.message}{also}")


async def _hand_back(res: Resources, claim: Claim) -> None:
    """Give the job to another worker now, and not when the lease has run out."""

    async def hand_back() -> None:
        async with connect(res.engine) as conn:
            await running.hand_back(conn, claim)

    # A task of its own: this one is being cancelled, perhaps more than once.
    done, _ = await asyncio.wait({asyncio.create_task(hand_back())}, timeout=HAND_BACK_SECONDS)
    log.info("attempt_handed_back", **_names(claim), done=bool(done) and not done.pop().exception())


async def _insist(res: Resources, statement: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Repeat a statement while Postgres is away; raises Transient after INSIST_SECONDS."""
    deadline = asyncio.get_running_loop().time() + INSIST_SECONDS
    while True:
        try:
            async with connect(res.engine) as conn:
                return await statement(conn)
        except Transient:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(random.uniform(0.2, 1))  # noqa: S311 no secret


def _names(claim: Claim) -> dict[str, int]:
    return {"email": claim.email_id, "attempt": claim.attempt_number}


def _host(url: str) -> str:
    try:
        return URL(url).host or ""
    except ValueError:
        return ""
