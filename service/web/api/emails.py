"""The API of e-mails: lists, history, files, retry, sync and dismissal of one."""

import re
from typing import Literal

from aiohttp import web

from service.errors import Rejected
from service.operate.dismiss import dismiss, undismiss
from service.operate.retry import retry
from service.queries import emails
from service.queries.emails import EmailFilter
from service.queries.views import EmailDetail, EmailPage, HoldersPage, View
from service.queries.webhook_views import RequestView
from service.web.auth.tokens import visible
from service.web.handling.contents import (
    content_headers,
    open_content,
    redirect_headers,
    signed_address,
    stream,
)
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import DismissRequest, answer, ask, body, number, parameters, reply
from service.web.handling.routes import Routes

routes = Routes("E-mails")

_SHA256 = re.compile("[0-9a-f]{64}")


class Queued(View):
    """The e-mail is queued for another attempt."""

    status: Literal["queued"] = "queued"
    email_id: int


class SyncPending(View):
    """The e-mail's sync is pending."""

    sync_status: Literal["pending"] = "pending"
    email_id: int


class EmailDismissed(View):
    """The e-mail is dismissed."""

    dismissed: Literal[True] = True
    email_id: int


class EmailUndismissed(View):
    """The e-mail is not dismissed any more."""

    dismissed: Literal[False] = False
    email_id: int


@routes.get("/api/v1/emails", query=EmailFilter, answer=EmailPage)
async def list_emails(request: web.Request) -> web.Response:
    """List e-mails, newest first."""
    wanted = parameters(request, EmailFilter)
    return await reply(request, emails.list_emails(request.app[RES].engine, wanted))


@routes.get("/api/v1/emails/{id}", answer=EmailDetail)
async def show_email(request: web.Request) -> web.Response:
    """Show an e-mail with its history."""
    return await reply(request, emails.get_email(request.app[RES].engine, number(request, "id")))


@routes.get("/api/v1/emails/{id}/request", answer=RequestView)
async def show_request(request: web.Request) -> web.Response:
    """Show the original webhook of an e-mail."""
    raw = await ask(request, emails.get_request(request.app[RES].engine, number(request, "id")))
    return answer(request, visible(request, raw))


@routes.get("/api/v1/attachments/{sha256}", answer=HoldersPage)
async def list_holders(request: web.Request) -> web.Response:
    """List all files with the same content, of all e-mails."""
    sha256 = request.match_info["sha256"]
    if not _SHA256.fullmatch(sha256):
        raise Rejected(404, "not_found", "A SHA-256 has 64 hexadecimal digits, in lower case.")
    return await reply(request, emails.list_holders(request.app[RES].engine, sha256))


@routes.post(
    "/api/v1/emails/{id}/retry",
    answer=Queued,
    status=202,
    errors={409: "The job has not finished (`not_finished`)."},
)
async def retry_email(request: web.Request) -> web.Response:
    """Retry a finished e-mail; stored files are not downloaded again."""
    email_id = number(request, "id")
    await ask(request, retry(request.app[RES], email_id, request[IDENTITY].actor))
    return answer(request, Queued(email_id=email_id), status=202)


@routes.post(
    "/api/v1/emails/{id}/sync",
    answer=SyncPending,
    status=202,
    errors={409: "The job has not finished (`not_finished`), or SYNC_URL is not set (`sync_off`)."},
)
async def sync_email(request: web.Request) -> web.Response:
    """Sync a finished e-mail again, without another attempt of its job."""
    email_id = number(request, "id")
    await ask(request, retry(request.app[RES], email_id, request[IDENTITY].actor, "sync"))
    return answer(request, SyncPending(email_id=email_id), status=202)


@routes.post(
    "/api/v1/emails/{id}/dismiss",
    body=DismissRequest,
    answer=EmailDismissed,
    errors={
        409: "Nothing of it failed (`not_failed`), it is dismissed (`already_dismissed`), or the reason is blank (`reason_missing`).",
    },
)
async def dismiss_email(request: web.Request) -> web.Response:
    """Dismiss a failed e-mail, or one whose sync failed: it needs no attention until it fails again."""
    wanted, email_id = await body(request, DismissRequest), number(request, "id")
    await ask(request, dismiss(request.app[RES], email_id, request[IDENTITY].actor, wanted.reason))
    return answer(request, EmailDismissed(email_id=email_id))


@routes.post(
    "/api/v1/emails/{id}/undismiss",
    answer=EmailUndismissed,
    errors={409: "It is not dismissed (`not_dismissed`)."},
)
async def undismiss_email(request: web.Request) -> web.Response:
    """End the dismissal of an e-mail: it needs attention again."""
    email_id = number(request, "id")
    await ask(request, undismiss(request.app[RES], email_id, request[IDENTITY].actor))
    return answer(request, EmailUndismissed(email_id=email_id))


@routes.get(
    "/api/v1/emails/{id}/attachments/{position}/content",
    media_type="*/*",
    elsewhere="`Location` is the file's address in the bucket. It needs no token and expires after STORAGE_SIGN_SECONDS."
    " Only programs are redirected, and only where files are stored in a bucket.",
    errors={409: "The file is not stored, or not yet (`not_stored`)."},
)
async def attachment_content(request: web.Request) -> web.StreamResponse:
    """Download a file."""
    res = request.app[RES]
    query = emails.get_attachment(res.engine, number(request, "id"), number(request, "position"))
    attachment = await ask(request, query)
    content = await open_content(res, attachment)
    # A bucket's answer lacks the headers that make a stranger's file safe in a browser: browsers get a stream.
    if request[IDENTITY].via != "dashboard":
        address = await signed_address(res, attachment, request.method)
        if address is not None:
            return web.Response(status=302, headers=redirect_headers(address))
    return await stream(request, web.StreamResponse(headers=content_headers(attachment)), content)
