"""The comments API, where a webhook that only names a comment has its attachments.

https://developer.zendesk.com/api-reference/ticketing/tickets/ticket_comments/#list-comments
"""

from dataclasses import dataclass
from urllib.parse import quote

from service.errors import Transient
from service.zendesk.body import Unreadable, read_json
from service.zendesk.files import Attachment, read_attachment

# A hundred comments each, the newest first.
MOST_PAGES = 50


@dataclass(frozen=True, slots=True)
class Page:
    """`announced` is None where the comment is not on this page."""

    announced: list[Attachment] | None
    following: str | None


def first_page(account_url: str, ticket_id: str) -> str:
    """Return the address of a ticket's newest comments; inline images are left out unless asked for."""
    ticket = quote(ticket_id, safe="")
    query = "include_inline_images=true&page[size]=100&sort=-created_at"
    return f"{account_url}/api/v2/tickets/{ticket}/comments.json?{query}"


def read_page(body: bytes, comment_id: str) -> Page:
    """Look for a comment; raises Transient if this is not what the API documents."""
    try:
        page = read_json(body)
    except Unreadable as exc:
        raise Transient("bad_response", "The comments API did not answer with JSON.") from exc
    found = page.get("comments") if isinstance(page, dict) else None
    if not isinstance(page, dict) or not isinstance(found, list):
        raise Transient("bad_response", "The comments API did not answer with comments.")
    links = page.get("links")
    following = links.get("next") if isinstance(links, dict) else None
    for comment in found:
        if isinstance(comment, dict) and str(comment.get("id")) == comment_id:
            files = comment.get("attachments")
            if not isinstance(files, list):
                raise Transient("bad_response", "The comments API did not answer with attachments.")
            return Page([read_attachment(file) for file in files], None)
    return Page(None, following if isinstance(following, str) else None)
