"""The content of a stored file as an answer: headers, a stream, or a signed address in the bucket."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import quote

import structlog
from aiohttp import web

from service.errors import HoldfastError, Rejected, Transient
from service.formatting import safe_file_name
from service.queries.messages import StoredContent
from service.queries.views import AttachmentView
from service.resources import Resources
from service.storage import objects

log = structlog.get_logger()


async def open_content(res: Resources, attachment: AttachmentView) -> AsyncIterator[bytes]:
    """Open the object of an attachment; its last piece comes only after the hash was compared.

    Raises Rejected (409) if the file is not stored, and the errors of `StoredContent.open`.
    """
    if attachment.object_key is None:
        raise Rejected(409, "not_stored", f"The file is {attachment.status}, not stored.")
    content = StoredContent(attachment.object_key, attachment.sha256 or "", attachment.size or 0)
    return await content.open(res.storage)


def content_headers(attachment: AttachmentView) -> dict[str, str]:
    """Make headers under which a browser saves a stranger's file, and runs no part of it."""
    name = safe_file_name(attachment.file_name, otherwise=f"attachment-{attachment.position}")
    return download_headers(name, attachment.detected_type or "application/octet-stream", attachment.size)


def download_headers(name: str, media_type: str, size: int | None = None) -> dict[str, str]:
    """Make the same headers for any content; `name` is a safe file name, `size` in bytes if it is known."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    length = {} if size is None else {"Content-Length": str(size)}
    return {
        **length,
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        **shown_headers(media_type, "sandbox; default-src 'none'"),
    }


def shown_headers(media_type: str, policy: str) -> dict[str, str]:
    """Make headers under which a browser shows a stranger's content by itself, under this security policy."""
    return {
        "Content-Type": media_type,
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }


async def signed_address(res: Resources, attachment: AttachmentView, method: str) -> str | None:
    """Make a temporary address of the file in the bucket; None if STORAGE_SIGN_SECONDS is 0 or the bucket refuses.

    The address is a secret, since it needs no token: never log it.
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
    except Transient as exc:  # credentials that can read the bucket may be unable to sign
        log.warning("signing_failed", error=exc.message)
        return None


def redirect_headers(address: str) -> dict[str, str]:
    """Make headers that redirect to a signed address, and keep it out of caches and referrers."""
    return {"Location": address, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


async def stream(
    request: web.Request, response: web.StreamResponse, chunks: AsyncIterator[bytes]
) -> web.StreamResponse:
    """Send the chunks; raises only errors that come before the first one."""
    if request.method == "HEAD":  # aiohttp would send the body all the same
        await response.prepare(request)
        return response
    chunk: bytes | None = await anext(chunks, None)  # most errors show before the headers are sent
    await response.prepare(request)
    try:
        while chunk is not None:
            await response.write(chunk)
            chunk = await anext(chunks, None)
    except (HoldfastError, ConnectionError) as exc:
        # A second answer would end up in the file: cut the connection.
        log.warning("content_cut_short", path=request.path, error=type(exc).__name__)
        if request.transport is not None:
            request.transport.abort()
    return response
