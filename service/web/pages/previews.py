"""Previews of files: raster images and PDFs, by their detected type, not by their name."""

from aiohttp import web

from service.errors import Rejected
from service.queries import emails
from service.queries.views import AttachmentView
from service.web.handling.contents import content_headers, open_content, stream
from service.web.handling.keys import RES
from service.web.handling.requests import ask, number
from service.web.handling.routes import Routes

routes = Routes()

MOST_BYTES = 20 * 1000**2
_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
PDF = "application/pdf"
# A file opened by its address may run, load and send nothing. The sandbox does not bind a browser's own PDF viewer, and
# keeps some from starting: PDFs have none.
_POLICIES = {
    **dict.fromkeys(_PICTURES, "default-src 'none'; sandbox; frame-ancestors 'self'"),
    PDF: "default-src 'none'; frame-ancestors 'self'",
}


def is_shown(attachment: AttachmentView) -> bool:
    is_small = attachment.size is not None and attachment.size <= MOST_BYTES
    return attachment.status == "stored" and is_small and attachment.detected_type in _POLICIES


def place_of(email_id: int, position: int) -> str:
    """Return the path of a preview."""
    return f"/emails/{email_id}/attachments/{position}/preview"


@routes.get("/emails/{id}/attachments/{position}/preview")
async def show(request: web.Request) -> web.StreamResponse:
    """Stream a file with a preview; raises Rejected (415) for any other."""
    res = request.app[RES]
    query = emails.get_attachment(res.engine, number(request, "id"), number(request, "position"))
    attachment = await ask(request, query)
    if not is_shown(attachment) or attachment.detected_type is None:
        raise Rejected(415, "not_shown", "No preview for this type or size of file: download it.")
    headers = {
        **content_headers(attachment),
        "Content-Disposition": "inline",
        "Content-Security-Policy": _POLICIES[attachment.detected_type],
    }
    return await stream(request, web.StreamResponse(headers=headers), await open_content(res, attachment))
