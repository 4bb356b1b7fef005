"""The API of e-mails: what is there, what happened to it, its bytes, running and syncing it again."""

from aiohttp import web

from service.operate.retry import retry
from service.queries import emails, overview
from service.queries.emails import EmailFilter
from service.web.api.answers import Queued, SyncPending
from service.web.auth.tokens import visible
from service.web.handling.contents import open_content, signed_address, stream
from service.web.handling.downloads import content_headers, redirect_headers
from service.web.handling.exchange import answer, ask, number, parameters
from service.web.handling.keys import IDENTITY, RES


async def list_emails(request: web.Request) -> web.Response:
    wanted = parameters(request, EmailFilter)
    return answer(request, await ask(request, emails.list_emails(request.app[RES].engine, wanted)))


async def show_email(request: web.Request) -> web.Response:
    return answer(
        request, await ask(request, emails.get_email(request.app[RES].engine, number(request, "id")))
    )


async def show_request(request: web.Request) -> web.Response:
    raw = await ask(request, emails.get_request(request.app[RES].engine, number(request, "id")))
    return answer(request, visible(request, raw))


async def stats(request: web.Request) -> web.Response:
    return answer(request, await ask(request, overview.stats(request.app[RES].engine)))


async def retry_email(request: web.Request) -> web.Response:
    email_id = number(request, "id")
    await ask(request, retry(request.app[RES], email_id, request[IDENTITY].actor))
    return answer(request, Queued(email_id=email_id), status=202)


async def sync_email(request: web.Request) -> web.Response:
    email_id = number(request, "id")
    await ask(request, retry(request.app[RES], email_id, request[IDENTITY].actor, "sync"))
    return answer(request, SyncPending(email_id=email_id), status=202)


async def attachment_content(request: web.Request) -> web.StreamResponse:
    """Send a program to the bucket; stream to a browser, which saves whatever it is and runs nothing."""
    res = request.app[RES]
    wanted = emails.get_attachment(res.engine, number(request, "id"), number(request, "position"))
    attachment = await ask(request, wanted)
    content = await open_content(res, attachment)
    # A bucket answers without the headers that make a stranger's file safe in a browser.
    if request[IDENTITY].via != "dashboard":
        address = await signed_address(res, attachment, request.method)
        if address is not None:
            return web.Response(status=302, headers=redirect_headers(address))
    return await stream(request, web.StreamResponse(headers=content_headers(attachment)), content)
