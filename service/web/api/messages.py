"""The API of messages: the text, the HTML, the original and the record of an e-mail, all of it as a ZIP; announcements."""

from aiohttp import web

from service.errors import Rejected
from service.queries import archive, emails, messages
from service.queries.message_html import embedded
from service.queries.messages import AnnouncementsPage, MessageContent, StoredContent, not_fetched
from service.queries.views import EmailDetail
from service.queries.webhook_views import RequestView
from service.web.auth.tokens import visible
from service.web.handling.contents import download_headers, shown_headers, stream
from service.web.handling.keys import RES
from service.web.handling.requests import answer, ask, number, reply
from service.web.handling.routes import Routes

routes = Routes("Messages")

# Scripts, forms and other hosts are out of reach, even if the sanitizer missed something.
HTML_POLICY = (
    "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; frame-ancestors 'self'"
)
_NOT_SHOWN = "sandbox; default-src 'none'"
_NONE = {404: "There is no such e-mail, or it has no such part (`message_not_found`)."}
_TOO_LARGE = {**_NONE, 422: "The message is too large, or its HTML too complex (`message_too_large`)."}


@routes.get(
    "/api/v1/emails/{id}/message.txt",
    media_type="text/plain",
    example="Here is the signed contract.",
    errors=_TOO_LARGE,
)
async def message_text(request: web.Request) -> web.Response:
    """Show the whole text of a message."""
    _, content = await _content(request)
    text = await content.text(request.app[RES].storage)
    headers = shown_headers("text/plain; charset=utf-8", _NOT_SHOWN)
    return web.Response(body=text.encode(errors="replace"), headers=headers)


@routes.get(
    "/api/v1/emails/{id}/message.html",
    media_type="text/html",
    example="<!doctype html>\n<html>\n…\n<body>\n<p>Here is the signed contract.</p>\n</body>\n</html>\n",
    errors=_TOO_LARGE,
)
async def message_html(request: web.Request) -> web.StreamResponse:
    """Show the HTML of a message: without scripts, forms and remote content, with its inline images."""
    email, content = await _content(request)
    storage = request.app[RES].storage
    pieces = embedded(
        storage, await content.html(storage), email.attachments, title=content.view.subject or ""
    )
    response = web.StreamResponse(headers=shown_headers("text/html; charset=utf-8", HTML_POLICY))
    return await stream(request, response, pieces)


@routes.get("/api/v1/emails/{id}/original.eml", media_type="message/rfc822", errors=_NONE)
async def original_email(request: web.Request) -> web.StreamResponse:
    """Download the original e-mail, byte for byte."""
    email, content = await _content(request)
    return await _download(request, content.original, f"email-{email.id}.eml", "message/rfc822")


@routes.get(
    "/api/v1/emails/{id}/record.json",
    example='{"id": 54509304133531, "type": "Comment", "public": true, "body": "Here is the signed contract."}',
    errors=_NONE,
)
async def message_record(request: web.Request) -> web.StreamResponse:
    """Download the comment's JSON as Zendesk gave it."""
    email, content = await _content(request)
    return await _download(request, content.record, f"email-{email.id}.json", "application/json")


@routes.get("/api/v1/emails/{id}/archive.zip", media_type="application/zip")
async def email_archive(request: web.Request) -> web.StreamResponse:
    """Download all of an e-mail as a ZIP: message, original, record, files, and a manifest with their hashes."""
    res = request.app[RES]
    email, content = await ask(request, emails.get_content(res.engine, number(request, "id")))
    parts = await archive.open_parts(res.storage, email, content)
    headers = download_headers(f"email-{email.id}.zip", "application/zip")
    return await stream(request, web.StreamResponse(headers=headers), archive.zipped(parts, email))


@routes.get("/api/v1/emails/{id}/announcements", answer=AnnouncementsPage)
async def list_announcements(request: web.Request) -> web.Response:
    """List the webhooks about an e-mail after its first one, oldest first."""
    engine = request.app[RES].engine
    return await reply(request, messages.list_announcements(engine, number(request, "id")))


@routes.get("/api/v1/emails/{id}/announcements/{number}", answer=RequestView)
async def show_announcement(request: web.Request) -> web.Response:
    """Show one of these webhooks, byte for byte."""
    ids = number(request, "id"), number(request, "number")
    raw = await ask(request, messages.get_announcement(request.app[RES].engine, *ids))
    return answer(request, visible(request, raw))


async def _content(request: web.Request) -> tuple[EmailDetail, MessageContent]:
    """Read the e-mail and its message; raises Rejected (404)."""
    found = emails.get_content(request.app[RES].engine, number(request, "id"))
    email, content = await ask(request, found)
    if content is None:
        raise Rejected(404, "message_not_found", "Nothing is known of this e-mail's message.")
    return email, content


async def _download(
    request: web.Request, content: StoredContent | None, name: str, media_type: str
) -> web.StreamResponse:
    if content is None:
        raise not_fetched()
    chunks = await content.open(request.app[RES].storage)
    response = web.StreamResponse(headers=download_headers(name, media_type, content.size))
    return await stream(request, response, chunks)
