"""The message on an e-mail's page: who wrote what to whom, and its HTML in a frame."""

import re
from dataclasses import dataclass

from aiohttp import web
from markupsafe import Markup, escape

from service.errors import HoldfastError, Rejected, Transient
from service.formatting import readable_lines
from service.queries import emails
from service.queries.message_html import message_html
from service.queries.views import AttachmentView, EmailDetail, MessageView, PersonView
from service.web.handling.contents import shown_headers
from service.web.handling.keys import RES
from service.web.handling.prefix import prefix_of
from service.web.handling.requests import ask, number
from service.web.handling.routes import Routes
from service.web.pages.excerpts import shortened
from service.web.pages.previews import is_shown, place_of

routes = Routes()

MOST_PEOPLE = 50
MOST_NAME = 300  # characters of a name or an address
MOST_SUBJECT = 1_000
# The sandbox runs no script and sends no form. The frame keeps its origin, so that our copies of images are loaded with
# the reader's cookie, and so that the page may measure its height.
FRAME_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'self'; sandbox allow-same-origin allow-popups allow-popups-to-escape-sandbox"
)
_LINK = re.compile(r"https?://[^\s<>\"'\u200e\u200f\u202a-\u202e\u2066-\u2069]{1,2000}", re.IGNORECASE)
_BEHIND = ".,;:!?)]}*_"
_UNSHOWN = Markup(
    "<!doctype html><html lang=en><title>Message</title><style>body {{ margin: 16px; font: 15px/1.5 system-ui, sans-serif }}"
    "</style><p>The formatted message cannot be shown: {}</p><p>The plain text is still there.</p>"
)
_ANCHOR = Markup('<a href="{}" target="_blank" rel="noopener noreferrer nofollow">{}</a>')


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """A message as its page shows it: long parts are cut."""

    view: MessageView
    text: Markup | None  # with links
    more_text: bool  # the text goes on at `view.text_href`
    to: tuple[PersonView, ...]
    cc: tuple[PersonView, ...]
    more_people: int
    has_html: bool
    is_framed: bool  # its HTML is shown, not its text
    frame: str  # the path of its HTML


def shown_message(email: EmailDetail, *, as_text: bool) -> ShownMessage | None:
    """Prepare the message of an e-mail; `as_text` prefers its text to its HTML."""
    view = email.message
    if view is None:
        return None
    people = [*view.to, *view.cc][:MOST_PEOPLE]
    to = [shortened(person, MOST_NAME) for person in people[: len(view.to)]]
    cc = [shortened(person, MOST_NAME) for person in people[len(view.to) :]]
    sender = view.sender and shortened(view.sender, MOST_NAME)
    subject = view.subject and view.subject[:MOST_SUBJECT]
    return ShownMessage(
        view=view.model_copy(update={"sender": sender, "subject": subject}),
        text=None if view.text is None else linked(view.text),
        more_text=len((view.text or "").encode(errors="replace")) < view.text_size,
        to=tuple(to),
        cc=tuple(cc),
        more_people=len(view.to) + len(view.cc) - len(people),
        has_html=view.has_html,
        is_framed=view.has_html and not as_text,
        frame=f"/emails/{email.id}/message.html",
    )


def linked(text: str) -> Markup:
    """Write a person's text as HTML, with its addresses of the web as links."""
    parts, at = [], 0
    text = readable_lines(text)
    for found in _LINK.finditer(text):
        address = found[0].rstrip(_BEHIND)
        parts += [escape(text[at : found.start()]), _ANCHOR.format(address, address)]
        at = found.start() + len(address)
    return Markup("").join([*parts, escape(text[at:])])


@routes.get("/emails/{id}/message.html")
async def show_html(request: web.Request) -> web.Response:
    """Show the HTML of a message, or why it cannot be shown, for the frame on its page; raises Rejected (404)."""
    res, email_id, prefix = request.app[RES], number(request, "id"), prefix_of(request)
    email, content = await ask(request, emails.get_content(res.engine, email_id))
    if content is None or not content.view.has_html:
        raise Rejected(404, "message_not_found", "This e-mail has no HTML, or none was fetched.")

    def address(file: AttachmentView) -> str | None:
        return prefix + place_of(email_id, file.position) if is_shown(file) else None

    status = 200
    try:
        html = await content.html(res.storage)
        page = await message_html(html, email.attachments, address, title="Message", sources="'self'")
    except HoldfastError as exc:  # a page of ours would not be shown in a frame
        status = exc.status if isinstance(exc, Rejected) else 503 if isinstance(exc, Transient) else 500
        page = _UNSHOWN.format(exc.message)
    headers = shown_headers("text/html; charset=utf-8", FRAME_POLICY)
    return web.Response(body=page.encode(errors="replace"), status=status, headers=headers)
