"""The original of an e-mail, as it was sent: Zendesk gives it to few credentials, and sometimes later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import structlog

from service.capture.lookup import HISTORY_RESERVE
from service.errors import HoldfastError, Permanent, Transient
from service.jobs import messages, originals
from service.jobs.loose_objects import put
from service.jobs.messages import MessageState, SavedOriginal
from service.jobs.object_references import ObjectRemoved, Proofs, write_references
from service.jobs.originals import FIRST_PAUSE, DueOriginal, PutOff
from service.outbound.responses import Limits
from service.resources import Resources
from service.zendesk.originals import HEADER_BYTES, read_original

# Between two looks whether an original is due to be asked for again.
_LOOK_SECONDS = 30
# Answers that say something of the e-mail.
_OF_EMAIL = {"original_not_available", "original_unfit", "too_large"}

log = structlog.get_logger()


class Wanted(NamedTuple):
    """An e-mail whose original Zendesk is asked for."""

    email_id: int
    ticket_id: str
    state: MessageState


async def fetch_original(res: Resources, wanted: Wanted) -> None:
    """Store the original, or record that there is none; or have it asked for again after an error."""
    with suppress(HoldfastError):  # Postgres refuses it
        if error := await _ask(res, wanted):
            told = error.retry_after if isinstance(error, Transient) else None
            pause = max(FIRST_PAUSE, told or FIRST_PAUSE)
            again = PutOff(wanted.email_id, pause, isinstance(error, Transient))
            await res.batch.insist(originals.put_off, again)


async def ask_originals_for_ever(res: Resources) -> None:
    """Ask again for originals that no attempt got; runs until cancelled.

    After an error, the others wait: it is probably theirs, too.
    """
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        with suppress(HoldfastError):
            while await ask_next(res):
                pass


async def ask_next(res: Resources) -> bool:
    """Ask for the original that is due for longest; return whether another one may follow."""
    due = await res.insist(originals.take_due) if res.zendesk.has_login else None
    if due is None:
        return False
    state = await res.batch.insist(messages.state_of, due.email_id)
    wanted = Wanted(due.email_id, due.ticket_id, state) if state and state.wants_original else None
    error = await _ask(res, wanted, HISTORY_RESERVE) if wanted else None
    if due.is_last or wanted is None:
        await _end(res, due, error)
    return error is None


async def _end(res: Resources, due: DueOriginal, error: HoldfastError | None) -> None:
    """Ask no more for an original; record the error that Zendesk's answer was, if it was asked at all."""
    if isinstance(error, Transient):
        await _settle(res, due.email_id, error.code)
    else:
        await res.batch.insist(originals.stop, due.email_id)


async def _ask(res: Resources, wanted: Wanted, reserve: float = 0.0) -> HoldfastError | None:
    """Store the original, or record that there is none; return an error that says nothing of the e-mail."""
    try:
        await write_references(res.storage, partial(_save, res, await _fetch(res, wanted, reserve)))
    except HoldfastError as exc:
        is_of_account = exc.code == "original_not_available" and res.zendesk.refuses_originals
        if isinstance(exc, Transient) or exc.code not in _OF_EMAIL or is_of_account:
            log.info("original_left_open", email=wanted.email_id, code=exc.code)
            return exc
        await _settle(res, wanted.email_id, exc.code)
    return None


async def _settle(res: Resources, email_id: int, code: str) -> None:
    """Record that there is no original, and why."""
    log.info("original_not_stored", email=email_id, code=code)
    await res.batch.insist(messages.save_original, SavedOriginal(email_id, error_code=code))


async def _save(res: Resources, saved: SavedOriginal, proofs: Proofs) -> None:
    proof = proofs.get(saved.stored.key) if saved.stored else None
    result = await res.batch.insist(messages.save_original, replace(saved, proof=proof))
    if isinstance(result, ObjectRemoved):
        raise result


async def _fetch(res: Resources, wanted: Wanted, reserve: float) -> SavedOriginal:
    """Store the original; raises Permanent if the answer is none, and Transient."""
    settings, state = res.settings, wanted.state
    assert state.audit_id is not None  # noqa: S101 `wants_original` requires it
    limits = Limits(settings.max_attachment_bytes, settings.download_seconds, settings.download_stall_seconds)
    is_young = state.comment_age < settings.early_seconds
    early = timedelta(seconds=settings.early_seconds) if is_young else None
    opened = res.zendesk.original(state.audit_id, wanted.ticket_id, limits, early=early, reserve=reserve)
    async with opened as answer:
        chunks = aiter(answer)
        head = await _head(chunks)
        found = read_original(head, state.message_id)
        if found is None:
            raise Permanent("original_unfit", "Zendesk's answer is not the original of this e-mail.")
        stored = await put(res, _whole(head, chunks), "original.eml", wanted.email_id)
    return SavedOriginal(wanted.email_id, stored, found.date)


async def _head(chunks: AsyncIterator[bytes]) -> bytes:
    """Read as much as the headers may take."""
    head = bytearray()
    async for chunk in chunks:
        head += chunk
        if len(head) >= HEADER_BYTES:
            break
    return bytes(head)


async def _whole(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in rest:
        yield chunk
