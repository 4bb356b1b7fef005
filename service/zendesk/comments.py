"""The comments API, where the files of a comment are listed.

https://developer.zendesk.com/api-reference/ticketing/tickets/ticket_comments/#list-comments
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from service.errors import Transient
from service.outbound.addresses import key_of
from service.zendesk.addresses import addresses_in, may_hold_files, plain
from service.zendesk.files import MOST_ATTACHMENTS, Attachment, bare_file, read_attachment
from service.zendesk.signature import read_time

# A hundred comments each, the newest first; a ticket has at most 5,000.
MOST_PAGES = 50
# Inline images are left out unless asked for.
QUERY = {"include_inline_images": "true", "page[size]": "100", "sort": "-created_at"}


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment of a ticket, and its files: those that it lists, and images that stand only in its HTML."""

    comment_id: str
    created_at: datetime | None
    files: tuple[Attachment, ...]


def path(ticket_id: str) -> str:
    """Return where the API has a ticket's comments."""
    return f"/api/v2/tickets/{quote(ticket_id, safe='')}/comments.json"


def read_page(page: Mapping[str, object]) -> list[Comment]:
    """Read one page; raises Transient if this is not what the API documents."""
    found = page.get("comments")
    if not isinstance(found, list):
        raise Transient("bad_response", "The comments API did not answer with comments.")
    return [_read(comment) for comment in found if isinstance(comment, dict)]


def _read(comment: Mapping[str, object]) -> Comment:
    listed = comment.get("attachments")
    if not isinstance(listed, list):
        raise Transient("bad_response", "The comments API did not answer with attachments.")
    files = [read_attachment(file) for file in listed]
    known = {key_of(file.url) for file in files}
    shown = [file for file in _in_text(comment.get("html_body")) if key_of(file.url) not in known]
    return Comment(str(comment.get("id")), read_time(str(comment.get("created_at") or "")), (*files, *shown))


def _in_text(html: object) -> list[Attachment]:
    """Find the attachments that a text links to or shows, whatever its markup."""
    if not isinstance(html, str) or not may_hold_files(html):
        return []
    found, _ = addresses_in(plain(html), MOST_ATTACHMENTS, is_list=False)
    return [bare_file(address, address.file_name) for address in found if address.is_attachment]
