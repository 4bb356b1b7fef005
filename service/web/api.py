"""The API of e-mails: what is there, what happened to it, its bytes, and running it again."""

from collections.abc import AsyncIterator

import structlog
from aiohttp import web

from service.errors import HoldfastError, Permanent, Rejected
from service.queries import emails, overview
from service.queries.emails import EmailFilter
from service.recovery.retry import retry
from service.storage import objects
from service.web.answers import Queued
from service.web.downloads import content_headers
from service.web.exchange import answer, ask, number, parameters
from service.web.keys import IDENTITY, RES

log = structlog.get_logger()


async def list_emails(request: web.Request) -> web.Response:
    wanted = parameters(request, EmailFilter)
    return answer(await ask(request, emails.list_emails(request.app[RES].engine, wanted)))


async def show_email(request: web.Request) -> web.Response:
    return answer(await ask(request, emails.get_email(request.app[RES].engine, number(request, "id"))))


async def show_request(request: web.Request) -> web.Response:
    return answer(await ask(request, emails.get_request(request.app[RES].engine, number(request, "id"))))


async def stats(request: web.Request) -> web.Response:
    return answer(await ask(request, overview.stats(request.app[RES].engine)))


async def retry_email(request: web.Request) -> web.Response:
    email_id = number(request, "id")
    await ask(request, retry(request.app[RES], email_id, request[IDENTITY].actor))
    return answer(Queued(email_id=email_id), status=202)


async def attachment_content(request: web.Request) -> web.StreamResponse:
    """Stream an object; whatever it is, a browser saves it and runs nothing."""
    res = request.app[RES]
    wanted = emails.get_attachment(res.engine, number(request, "id"), number(request, "position"))
    attachment = await ask(request, wanted)
    if attachment.object_key is None:
        raise Rejected(409, "not_stored", f"The file is {attachment.status}, there are no bytes yet.")
    opened = await objects.open(res.storage, attachment.object_key)
    if opened.size != attachment.size:
        raise Permanent("object_damaged", f"The object has {opened.size} bytes, not {attachment.size}.")
    return await _stream(request, web.StreamResponse(headers=content_headers(attachment)), opened.chunks)


async def _stream(
    request: web.Request, response: web.StreamResponse, chunks: AsyncIterator[bytes]
) -> web.StreamResponse:
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
