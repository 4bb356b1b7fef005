"""Download and store what an e-mail's record is missing; what was stored stays stored."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
from yarl import URL

from service.attachments import File, Mark, announce, files_of, mark
from service.database import insist, run
from service.download.answers import Expected, Limits
from service.download.transfer import download
from service.errors import HoldfastError, Permanent, Transient
from service.faultpoints import reach
from service.jobs.running import Claim
from service.metrics import ATTACHMENT_BYTES, ATTACHMENTS, code_label
from service.process.metering import Meter, place
from service.process.rereading import reread
from service.resources import Resources
from service.storage import objects
from service.storage.objects import Stored
from service.zendesk import comments
from service.zendesk.payloads import Attachment

# A hundred comments, each of at most 64 kB of text in three forms; a page is held in memory.
MOST_PAGE_BYTES = 24 * 1024**2
MOST_HOST = 253  # characters of a name in the DNS

_STORED = ATTACHMENTS.labels("stored")

log = structlog.get_logger()


async def capture(res: Resources, claim: Claim) -> list[HoldfastError]:
    """Fetch what is missing; return what is wrong with this e-mail's files, now or from before."""
    try:
        async with asyncio.timeout(res.settings.attempt_seconds):
            claim = await reread(res, claim) if claim.reread else claim
            files = await _files(res, claim)
            if not files and claim.comment_id is not None:
                files = await _files_of_comment(res, claim, claim.comment_id)
            now = await _fetch_all(res, claim, [file for file in files if file.status == "pending"])
    except TimeoutError:
        late = f"The files were not there after {res.settings.attempt_seconds:g} s."
        return [Transient("attempt_timeout", late)]
    except HoldfastError as exc:
        return [exc]
    except Exception as exc:
        log.exception("attempt_broke", email=claim.email_id, attempt=claim.attempt_number)
        return [_unexpected(exc)]
    return [*(_error_of(file) for file in files if file.status == "failed"), *now]


def _error_of(file: File) -> HoldfastError:
    error = Permanent(file.error_code or "", file.error or "")
    error.host = _host(file.source_url)[:MOST_HOST] or None
    return error


async def _files_of_comment(res: Resources, claim: Claim, comment_id: str) -> list[File]:
    """List the files of a webhook that only pointed to a comment: Zendesk's comments API has them."""
    announced = await _look_up(res, claim, comment_id)
    record = partial(announce, held=claim.held, files=announced)
    await insist(partial(run, res.engine, res.settings.database_seconds, record))
    return await _files(res, claim)


async def _files(res: Resources, claim: Claim) -> list[File]:
    return await insist(lambda: res.coalesce(files_of, claim.email_id, size=claim.announced_bytes))


async def _look_up(res: Resources, claim: Claim, comment_id: str) -> list[Attachment]:
    if not comment_id:
        empty = "The webhook's comment_id is empty; the placeholder {{ticket.latest_comment.id}} fills it."
        raise Permanent("comment_missing", empty)
    if res.settings.account_url is None or res.credentials is None:
        missing = "The webhook names a comment; to look it up, set ZENDESK_SUBDOMAIN and its credentials."
        raise Permanent("credentials_missing", missing)
    url = comments.first_page(res.settings.account_url, claim.ticket_id)
    for _ in range(comments.MOST_PAGES):
        body = bytearray()
        async with _stream(
            res, claim, url, Expected(None, "application/json", None), MOST_PAGE_BYTES
        ) as chunks:
            async for chunk in chunks:
                body += chunk
        page = comments.read_page(bytes(body), comment_id)
        if page.announced is not None:
            return page.announced
        if page.following is None:
            break
        url = page.following
    # Zendesk's API may be some moments behind its triggers.
    raise Transient("comment_not_found", f"Ticket {claim.ticket_id} has no comment {comment_id} (yet).")


async def _fetch_all(res: Resources, claim: Claim, missing: Sequence[File]) -> list[HoldfastError]:
    shared = iter(missing)
    if len(missing) < 2:  # most e-mails; a task of its own is not for nothing
        return await _fetch_some(res, claim, shared)
    # An e-mail of many files leaves room for others.
    most = max(1, res.settings.downloads_per_process // 4)
    async with asyncio.TaskGroup() as group:
        some = [group.create_task(_fetch_some(res, claim, shared)) for _ in missing[:most]]
    return [error for task in some for error in task.result()]


async def _fetch_some(res: Resources, claim: Claim, missing: Iterator[File]) -> list[HoldfastError]:
    """Take files from those that several tasks share, until none is left; return what was wrong."""
    return [error for file in missing if (error := await _fetch(res, claim, file))]


async def _fetch(res: Resources, claim: Claim, file: File) -> HoldfastError | None:
    """Make one file stored, or note and return why that could not be."""
    error: HoldfastError
    began, about = time.monotonic(), _about(claim, file)
    try:
        stored = await _found_again(res, file) or await _download(res, claim, file)
        reach(res.settings.fault_points, "after_object", claim.ticket_id)
        await _mark(res, Mark(claim.held, file.position, "stored", stored))
    except HoldfastError as exc:
        error = exc
    except Exception as exc:
        log.exception("attachment_broke", **about)
        error = _unexpected(exc)
    else:
        log.info(
            "attachment_stored",
            **about,
            bytes=stored.size,
            sha256=stored.sha256,
            key=stored.key,
            ms=round(1000 * (time.monotonic() - began)),
        )
        _STORED.inc()
        ATTACHMENT_BYTES.inc(stored.size)
        return None
    error.host = _host(file.source_url)[:MOST_HOST] or None
    ATTACHMENTS.labels(code_label(error.code)).inc()
    log.info("attachment_not_stored", **about, code=error.code)
    final = not isinstance(error, Transient) or claim.retry_count >= res.settings.max_retries
    with suppress(Transient):  # Postgres stays away: the settlement hears of it, too
        await _mark(res, Mark(claim.held, file.position, "failed" if final else "pending", error=error))
    return error


async def _found_again(res: Resources, file: File) -> Stored | None:
    """Take what was stored once, was lost, and is there again, as after a restore; its address may be dead by now."""
    if file.sha256 is None or file.object_key is None:
        return None
    with suppress(HoldfastError):  # it is not there, or cannot be read
        if (await objects.digest(res.storage, file.object_key))[0] == file.sha256:
            opened = await objects.open(res.storage, file.object_key)
            return await objects.put(res.storage, opened.chunks, file.file_name)
    return None


async def _mark(res: Resources, made: Mark) -> None:
    await insist(lambda: res.coalesce(mark, made))


async def _download(res: Resources, claim: Claim, file: File) -> Stored:
    expected = Expected(file.file_name, file.declared_type, file.declared_size)
    async with _stream(res, claim, file.source_url, expected, res.settings.max_attachment_bytes) as chunks:
        reach(res.settings.fault_points, "mid_download", claim.ticket_id)
        stored = await objects.put(res.storage, chunks, file.file_name)
        seconds = time.monotonic() - (chunks.ended or 0)
        res.traces.record(claim.invocation, "store", seconds, {"bytes": stored.size}, under=place(claim))
        return stored


@asynccontextmanager
async def _stream(
    res: Resources, claim: Claim, url: str, expected: Expected, most: int
) -> AsyncIterator[Meter]:
    """Open what is at an address, once it is our turn."""
    settings = res.settings
    limits = Limits(most, settings.download_seconds, settings.download_stall_seconds)
    limit = asyncio.Semaphore(settings.downloads_per_host)
    async with res.host_slots.setdefault(_host(url), limit), res.slots:
        with Meter(res, claim, _host(url)) as meter:
            async with download(
                res.session, res.egress, url, expected=expected, limits=limits, credentials=res.credentials
            ) as file:
                meter.host, meter.chunks = file.host, file.chunks
                yield meter


def _unexpected(exc: Exception) -> Transient:
    return Transient("internal_error", f"Unexpected {type(exc).__name__}, see the worker's log.")


def _about(claim: Claim, file: File) -> dict[str, int]:
    return {"email": claim.email_id, "attempt": claim.attempt_number, "position": file.position}


def _host(url: str) -> str:
    try:
        return URL(url).host or ""
    except ValueError:
        return ""
