"""The bytes of a file as an answer, from wherever they are kept."""

from collections.abc import AsyncIterator
from datetime import timedelta

import structlog
from aiohttp import web

from service.errors import HoldfastError, Permanent, Rejected, Transient
from service.queries.views import AttachmentView
from service.resources import Resources
from service.storage import objects

log = structlog.get_logger()


async def open_content(res: Resources, attachment: AttachmentView) -> AsyncIterator[bytes]:
    """Open its object; raises Rejected (409) if there is none yet, Permanent if it is not whole."""
    if attachment.object_key is None:
        raise Rejected(409, "not_stored", f"The file is {attachment.status}, there are no bytes yet.")
    opened = await objects.open(res.storage, attachment.object_key)
    if opened.size != attachment.size:
        raise Permanent("object_damaged", f"The object has {opened.size} bytes, not {attachment.size}.")
    return opened.chunks


async def signed_address(res: Resources, attachment: AttachmentView, method: str) -> str | None:
    """Make an address of the bucket's where its bytes are for a while; None where we have to send them.

    Whoever has it can read the file: it belongs into no log.
    """
    seconds = res.settings.storage_sign_seconds
    if not seconds or attachment.object_key is None:
        return None
    try:
        return await objects.sign(
            res.storage,
            attachment.object_key,
            method="HEAD" if method == "HEAD" else "GET",
            expires=timedelta(seconds=seconds),
        )
    except Transient as exc:  # whoever may read the bucket may not always sign for it
        log.warning("signing_failed", error=exc.message)
        return None


async def stream(
    request: web.Request, response: web.StreamResponse, chunks: AsyncIterator[bytes]
) -> web.StreamResponse:
    """Send what comes; raises what comes instead of the first bytes."""
    if request.method == "HEAD":  # aiohttp would send the bytes all the same
        await response.prepare(request)
        return response
    chunk: bytes | None = await anext(chunks, None)  # what is amiss mostly shows before the headers are out
    await response.prepare(request)
    try:
        while chunk is not None:
            await response.write(chunk)
            chunk = await anext(chunks, None)
    except (HoldfastError, ConnectionError) as exc:
        # No second answer fits in here: it would end up in the file.
        log.warning("content_cut_short", path=request.path, error=type(exc).__name__)
        if request.transport is not None:
            request.transport.abort()
    return response
