"""The original of an e-mail, as it was sent: tried once, because Zendesk gives it to few credentials."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

import structlog

from service.capture.telemetry import names
from service.errors import HoldfastError, Permanent
from service.jobs import messages
from service.jobs.attempts import Claim
from service.jobs.loose_objects import put
from service.jobs.messages import MessageState, SavedOriginal
from service.jobs.object_references import ObjectRemoved, Proofs, write_references
from service.outbound.responses import Limits
from service.resources import Resources
from service.zendesk.originals import HEADER_BYTES, read_original

log = structlog.get_logger()


async def fetch_original(res: Resources, claim: Claim, state: MessageState) -> None:
    """Store the original, or record that there is none; an error leaves it for the next attempt, if one follows."""
    with suppress(HoldfastError):
        try:
            saved = await _fetch(res, claim, state)
        except Permanent as exc:
            log.info("original_not_stored", **names(claim), code=exc.code)
            saved = SavedOriginal(claim.email_id)
        await write_references(res.storage, partial(_save, res, saved))


async def _save(res: Resources, saved: SavedOriginal, proofs: Proofs) -> None:
    proof = proofs.get(saved.stored.key) if saved.stored else None
    result = await res.batch.insist(messages.save_original, replace(saved, proof=proof))
    if isinstance(result, ObjectRemoved):
        raise result


async def _fetch(res: Resources, claim: Claim, state: MessageState) -> SavedOriginal:
    """Store the original; raises Permanent if the answer is none, and Transient."""
    assert state.audit_id is not None  # noqa: S101 `wants_original` requires it
    settings = res.settings
    limits = Limits(settings.max_attachment_bytes, settings.download_seconds, settings.download_stall_seconds)
    async with res.zendesk.original(state.audit_id, claim.ticket_id, limits) as answer:
        chunks = aiter(answer)
        head = await _head(chunks)
        found = read_original(head, state.message_id)
        if found is None:
            raise Permanent("original_unfit", "Zendesk's answer is not the original of this e-mail.")
        stored = await put(res, _whole(head, chunks), "original.eml", claim.email_id)
    return SavedOriginal(claim.email_id, stored, found.date)


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
