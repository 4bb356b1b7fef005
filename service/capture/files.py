"""Download and store the missing files of an e-mail; stored files stay as they are."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import astuple, replace
from functools import partial

import structlog

from service.capture.lookup import look_up
from service.capture.message import complete_message, is_free, wait_for_scan
from service.capture.reparse import reparse
from service.capture.retry_policy import (
    DEAD,
    is_dispensable,
    is_young,
    may_be_early,
    may_try_again,
    should_look_up,
)
from service.capture.telemetry import ObservedDownload, names, report_not_stored, report_stored
from service.errors import HoldfastError, Permanent, Transient
from service.faultpoints import reach
from service.jobs.attachments import (
    FileRecord,
    FileUpdate,
    Listing,
    files_of,
    list_of,
    mark,
    record_lists,
)
from service.jobs.attempts import Claim
from service.jobs.erased import ERASED
from service.jobs.loose_objects import give_up, put
from service.jobs.object_references import ObjectRemoved, Proofs, write_references
from service.outbound.addresses import host_of
from service.outbound.responses import Expected, Limits
from service.resources import Resources
from service.storage import objects
from service.storage.objects import StoredObject
from service.zendesk import parsing
from service.zendesk.body import Unreadable

_EMPTY = len("[]")
# The code of a file on a host that nobody allowed.
_REFUSED = "address_refused"

log = structlog.get_logger()


class _Unproven(FileRecord):
    """A stored file of another size than Zendesk tells: pending for an attempt, and stored for everybody else."""

    __slots__ = ()


async def capture(res: Resources, claim: Claim) -> list[HoldfastError]:
    """Fetch the missing files; return the errors of this attempt, and of files that failed before."""
    errors: list[HoldfastError] = []
    try:
        async with asyncio.timeout(res.settings.attempt_seconds):
            claim = await reparse(res, claim) if claim.reread else claim
            files = await _files(res, claim)
            if claim.announced_bytes > _EMPTY and not (claim.has_body and files):
                claim = await _read_list(res, claim, files)
                files = await _files(res, claim)
            # Files that the webhook announces come first: their addresses may expire.
            known = [
                file for file in files if is_free(file) and (file.source_url or not res.zendesk.has_login)
            ]
            errors += await _fetch_all(res, claim, known)
            left = await _left(res, claim, files, known, errors)
            errors = await _look_up(res, claim, known, left, errors)
            await complete_message(res, claim)
            files = await _files(res, claim)
    except TimeoutError:
        late = f"The files were not fetched within {res.settings.attempt_seconds:g} s."
        return [*errors, Transient("attempt_timeout", late)]
    except HoldfastError as exc:
        return [*errors, exc]
    except Exception as exc:
        log.exception("attempt_broke", **names(claim))
        return [*errors, _unexpected(exc)]
    # Nobody can repair an erased file.
    failed = [_error_of(res, file) for file in files if file.status == "failed" and file.error_code != ERASED]
    if not failed and not errors and any(file.status == "pending" for file in files):
        # Another worker's look-up may have added it just now.
        return [Transient("files_left", "A file was added during the attempt.", counts=False)]
    return [*failed, *errors]


async def _look_up(
    res: Resources,
    claim: Claim,
    before: Sequence[FileRecord],
    files: Sequence[FileRecord],
    errors: Sequence[HoldfastError],
) -> list[HoldfastError]:
    """Have Zendesk's API list all files of the e-mail, and fetch those that are new or have a new address.

    `before` are files that were fetched before, `errors` theirs; `files` are those that are not stored. Return what is
    left of the errors, with new ones.
    """
    dead = {file.position: file for file in files if file.status == "pending" and file.error_code in DEAD}
    is_stale = any(map(_is_stale, files))
    if not should_look_up(res, claim, is_stale=is_stale):
        errors = [*errors, *await _give_up(res, claim, dead.values())]
        return [*errors, *await _fetch_bound(res, claim, files)]
    problem = await _ask(res, claim)
    now = await _files(res, claim)
    pending = [file for file in now if file.status == "pending"]
    present = {None, *(file.position for file in now)}
    left = [error for error in errors if error.code not in DEAD and error.position in present]
    unlisted = [file for file in pending if not file.source_url]
    if unlisted and not problem and is_young(res, claim):
        about = f"{len(unlisted)} of the files that the webhook announces are not in Zendesk's list (yet)."
        problem = Transient("files_not_listed", about, is_limited=False)
    missed = {file.position for file in files if file.status != "stored"}
    tried = {file.position: file.source_url for file in before if file.source_url and file.position in missed}
    is_same = {file.position for file in pending if tried.get(file.position) == file.source_url}
    if problem is None or not may_try_again(res, claim, problem):
        left += await _give_up(res, claim, [dead[place] for place in is_same & dead.keys()])
    scan = await wait_for_scan(res, claim, pending)

    def is_due(file: FileRecord) -> bool:
        if not is_free(file):
            return scan is None
        return file.position not in is_same and (bool(file.source_url) or problem is None)

    left += await _fetch_all(res, claim, [file for file in pending if is_due(file)], is_last=True)
    return [*left, *(error for error in (scan, problem) if error)]


def _is_stale(file: FileRecord) -> bool:
    """Say whether Zendesk's list may tell another address of a file, or that it is none of the e-mail."""
    is_dead = not is_free(file) or not file.source_url or file.error_code in DEAD
    return file.error_code == _REFUSED if file.status == "failed" else file.status == "pending" and is_dead


async def _fetch_bound(res: Resources, claim: Claim, files: Sequence[FileRecord]) -> list[HoldfastError]:
    """Fetch files that another look-up was to free, where there are no credentials for one any more."""
    bound = [file for file in files if file.status == "pending" and not is_free(file)]
    scan = await wait_for_scan(res, claim, bound)
    return [scan] if scan else await _fetch_all(res, claim, bound, is_last=True)


async def _left(
    res: Resources,
    claim: Claim,
    files: Sequence[FileRecord],
    fetched: Sequence[FileRecord],
    errors: Sequence[HoldfastError],
) -> Sequence[FileRecord]:
    """Return the files that are not stored; only after an error do these have to be read again."""
    if errors:
        return await _files(res, claim)
    stored = {file.position for file in fetched}
    return [file for file in files if file.position not in stored]


async def _ask(res: Resources, claim: Claim) -> HoldfastError | None:
    """Look up the ticket; return an error that matters."""
    try:
        await look_up(res, claim, afresh=claim.looked_up)
    except HoldfastError as exc:
        if is_dispensable(res, claim, exc):
            return None
        error = may_be_early(res, claim, exc)
        log.info("ticket_not_looked_up", **names(claim), code=error.code)
        return error
    return None


async def _give_up(res: Resources, claim: Claim, dead: Iterable[FileRecord]) -> list[HoldfastError]:
    """Settle files whose address is no longer valid, and for which there is no other one."""
    errors = []
    for file in dead:
        error = may_be_early(res, claim, Permanent(file.error_code or "", file.error or ""))
        _name_file(res, error, file)
        status = "pending" if may_try_again(res, claim, error) else "failed"
        status = "stored" if isinstance(file, _Unproven) else status
        await _record(res, FileUpdate(claim.fencing_token, file.position, status, error=error))
        if status != "failed":  # the caller lists those that failed
            errors.append(error)
    return errors


def _error_of(res: Resources, file: FileRecord) -> HoldfastError:
    error = Permanent(file.error_code or "", file.error or "")
    _name_file(res, error, file)
    return error


def _name_file(res: Resources, error: HoldfastError, file: FileRecord) -> None:
    error.host, error.position = host_of(res.account.absolute(file.source_url)) or None, file.position


async def _read_list(res: Resources, claim: Claim, known: Sequence[FileRecord]) -> Claim:
    """Record the files of a list that another system wrote, so that the attempt fetches them, too.

    Raises Permanent for a list that cannot be read.
    """
    text = await res.insist(partial(list_of, email_id=claim.email_id))
    try:
        listed = parsing.read_list(text or "", known)
    except Unreadable as exc:
        raise Permanent(exc.code, f"The list of files cannot be read: {exc.message}") from exc
    # Intake read a body of ours whole: its list may have items that are no files.
    missing = [file for file in listed.missing if file.url or not claim.has_body]
    if missing:
        first = max((file.position for file in known), default=-1) + 1
        listing = Listing(
            claim.email_id, listed.fingerprint, dict(enumerate(missing, first)), listed.is_whole
        )
        await res.insist(partial(record_lists, listings=[listing], token=claim.fencing_token))
        log.info("list_read", **names(claim), files=len(missing))
    has_comment = listed.is_whole or claim.has_body or claim.comment_id is not None
    return claim if has_comment else replace(claim, comment_id="")


async def _files(res: Resources, claim: Claim) -> list[FileRecord]:
    """Read the files of the e-mail; a stored one with a wrong content counts as pending.

    It stays stored until another content comes: Zendesk may tell a wrong size, or not give out the file any more.
    """

    def read(file: FileRecord) -> FileRecord:
        is_wrong = file.status == "stored" and file.has_wrong_content
        return _Unproven(*astuple(replace(file, status="pending"))) if is_wrong else file

    return [
        read(file) for file in await res.batch.insist(files_of, claim.email_id, size=claim.announced_bytes)
    ]


async def _fetch_all(
    res: Resources, claim: Claim, missing: Sequence[FileRecord], *, is_last: bool = False
) -> list[HoldfastError]:
    """Fetch files; return their errors. Unless `is_last`, a file whose address is no longer valid waits for another."""
    shared = iter(missing)
    if len(missing) < 2:  # most e-mails: a task of its own would only cost time
        return await _fetch_some(res, claim, shared, is_last=is_last)
    # An e-mail with many files leaves slots for others.
    most = max(1, res.settings.downloads_per_process // 4)
    async with asyncio.TaskGroup() as group:
        fetch = partial(_fetch_some, res, claim, shared, is_last=is_last)
        some = [group.create_task(fetch()) for _ in missing[:most]]
    return [error for task in some for error in task.result()]


async def _fetch_some(
    res: Resources, claim: Claim, missing: Iterator[FileRecord], *, is_last: bool
) -> list[HoldfastError]:
    """Fetch files from an iterator that several tasks share, until none is left; return the errors."""
    return [error for file in missing if (error := await _fetch(res, claim, file, is_last=is_last))]


async def _fetch(res: Resources, claim: Claim, file: FileRecord, *, is_last: bool) -> HoldfastError | None:
    """Store one file and record that; or record and return the error."""
    error: HoldfastError
    began = time.monotonic()
    try:
        stored = await _stored_before(res, claim, file) or await _download(res, claim, file)
        reach(res.settings.fault_points, "after_object", claim.ticket_id)
        update = FileUpdate(claim.fencing_token, file.position, "stored", stored)
        await write_references(res.storage, partial(_record_stored, res, update, stored))
    except HoldfastError as exc:
        error = may_be_early(res, claim, exc)
    except Exception as exc:
        log.exception("attachment_broke", **names(claim), position=file.position)
        error = _unexpected(exc)
    else:
        report_stored(claim, file.position, stored, time.monotonic() - began)
        return None
    _name_file(res, error, file)
    report_not_stored(claim, file.position, error)
    waits = not is_last and error.code in DEAD
    status = "pending" if waits or may_try_again(res, claim, error) else "failed"
    status = "stored" if isinstance(file, _Unproven) else status
    with suppress(HoldfastError):  # Postgres is away or refuses it: the settlement meets the same error
        await _record(res, FileUpdate(claim.fencing_token, file.position, status, error=error))
    return error


async def _stored_before(res: Resources, claim: Claim, file: FileRecord) -> StoredObject | None:
    """Find a lost object again, as after a restore; its address may have expired."""
    if file.sha256 is None or file.object_key is None or file.has_wrong_content:
        return None
    with suppress(HoldfastError):  # the object is not there, or cannot be read
        if (await objects.digest(res.storage, file.object_key))[0] == file.sha256:
            opened = await objects.open(res.storage, file.object_key)
            return await put(res, opened.chunks, file.file_name, claim.email_id)
    return None


async def _record(res: Resources, update: FileUpdate) -> None:
    await res.batch.insist(mark, update)


async def _record_stored(res: Resources, update: FileUpdate, stored: StoredObject, proofs: Proofs) -> None:
    result = await res.batch.insist(mark, replace(update, proof=proofs.get(stored.key)))
    if isinstance(result, ObjectRemoved):
        raise result
    if not result:  # the e-mail may have been removed, or another attempt stores its files
        await res.batch.insist(give_up, stored)


async def _download(res: Resources, claim: Claim, file: FileRecord) -> StoredObject:
    expected = Expected(
        file.file_name, file.declared_type, file.declared_size, may_be_empty=not is_young(res, claim)
    )
    async with _open_download(res, claim, file.source_url, expected) as chunks:
        reach(res.settings.fault_points, "mid_download", claim.ticket_id)
        return await put(res, chunks, file.file_name, claim.email_id)


@asynccontextmanager
async def _open_download(
    res: Resources, claim: Claim, address: str, expected: Expected
) -> AsyncIterator[ObservedDownload]:
    """Open an address, once the process and the host have a free slot."""
    settings = res.settings
    limits = Limits(settings.max_attachment_bytes, settings.download_seconds, settings.download_stall_seconds)
    host = host_of(res.account.absolute(address))
    limit = asyncio.Semaphore(settings.downloads_per_host)
    async with res.host_slots.setdefault(host, limit), res.slots:
        with ObservedDownload(res, claim, host) as download:
            async with res.zendesk.file(address, expected, limits) as file:
                download.host, download.chunks = file.host, file.chunks
                yield download


def _unexpected(exc: Exception) -> Transient:
    return Transient("internal_error", f"Unexpected {type(exc).__name__}, see the worker's log.")
