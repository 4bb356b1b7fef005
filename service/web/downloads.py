"""A stranger's file as an answer: a browser saves it, and runs nothing of it."""

import re
from collections.abc import AsyncIterator
from urllib.parse import quote

import structlog
from aiohttp import web

from service.errors import HoldfastError, Permanent, Rejected
from service.queries.views import AttachmentView
from service.resources import Resources
from service.storage import objects

LONGEST_NAME = 150
# Control characters, separators of paths, and what turns the direction of writing: `gpj.exe` must not look
# like `exe.jpg`.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f/\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

log = structlog.get_logger()


def content_headers(attachment: AttachmentView) -> dict[str, str]:
    """Make the headers; the name is the sender's, so it is never a path and never a header of its own."""
    name = _UNSAFE.sub("_", attachment.file_name or "")[-LONGEST_NAME:].strip(". ")
    name = name or f"attachment-{attachment.position}"
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return {
        "Content-Type": attachment.detected_type or "application/octet-stream",
        "Content-Length": str(attachment.size),
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


async def open_content(res: Resources, attachment: AttachmentView) -> AsyncIterator[bytes]:
    """Open its object; raises Rejected (409) if there is none yet, Permanent if it is not whole."""
    if attachment.object_key is None:
        raise Rejected(409, "not_stored", f"The file is {attachment.status}, there are no bytes yet.")
    opened = await objects.open(res.storage, attachment.object_key)
    if opened.size != attachment.size:
        raise Permanent("object_damaged", f"The object has {opened.size} bytes, not {attachment.size}.")
    return opened.chunks


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
