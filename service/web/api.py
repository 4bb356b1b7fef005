"""The API of e-mails: what is there, what happened to it, its bytes, and running it again."""

from aiohttp import web

from service.queries import emails, overview
from service.queries.emails import EmailFilter
from service.recovery.retry import retry
from service.web.answers import Queued
from service.web.contents import open_content, stream
from service.web.downloads import content_headers
from service.web.exchange import answer, ask, number, parameters
from service.web.keys import IDENTITY, RES


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
    content = await open_content(res, attachment)
    return await stream(request, web.StreamResponse(headers=content_headers(attachment)), content)
