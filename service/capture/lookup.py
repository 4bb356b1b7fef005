"""Look up the files of an e-mail in Zendesk's API, where its webhook does not list them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from service.capture.retry_policy import is_young
from service.errors import HoldfastError, Permanent, Transient
from service.jobs.attachments import FileRecord
from service.jobs.attempts import Claim
from service.outbound.addresses import attachment_key
from service.resources import Resources
from service.zendesk import comments
from service.zendesk.comments import Comment
from service.zendesk.payloads import AnnouncedFile

Page = Mapping[str, object]

# A webhook that names no comment gets the files of all comments in this window around its arrival. Two e-mails in
# quick succession can both name the second one, and clocks differ. A file of two e-mails is stored once.
BEFORE = timedelta(hours=1)
AFTER = timedelta(minutes=5)


def should_look_up(res: Resources, claim: Claim, *, has_files: bool) -> bool:
    """Return whether to ask Zendesk's API for the files of this e-mail.

    The look-up is needed where the webhook does not list its files. It is also made where the webhook lists none but
    names a comment, because inline images are in no list, and where files stand only in the e-mail's HTML
    (`comment_id` is then "").
    """
    if claim.looked_up:
        return False
    if not claim.is_listed or claim.comment_id == "":
        return True
    return claim.comment_id is not None and not has_files and res.zendesk.has_login


def is_dispensable(res: Resources, claim: Claim, error: HoldfastError) -> bool:
    """Return whether a failed look-up does not matter: the webhook listed the files, and Zendesk has no such comment."""
    return claim.is_listed and error.code in {"not_found", "comment_not_found"} and not is_young(res, claim)


async def look_up(res: Resources, claim: Claim) -> Sequence[AnnouncedFile]:
    """Return the files of the comment that caused the webhook; raises Transient and Permanent."""
    if not res.zendesk.has_login:
        raise _cannot_ask(claim)
    pages = res.zendesk.pages(comments.path(claim.ticket_id), comments.MOST_PAGES, **comments.QUERY)
    async with aclosing(pages):
        if claim.comment_id:
            found = await _with_id(pages, claim.comment_id)
        else:
            received_at = datetime.now(UTC) - timedelta(seconds=claim.age)
            found = await _around(pages, received_at, may_be_older=not is_young(res, claim))
    if not found:
        which = f"comment {claim.comment_id}" if claim.comment_id else "comment"
        # The API may be some moments behind the triggers.
        raise Transient("comment_not_found", f"Ticket {claim.ticket_id} has no {which} (yet).")
    return [file for comment in found for file in comment.files]


async def _with_id(pages: AsyncIterator[Page], comment_id: str) -> Sequence[Comment]:
    async for page in pages:
        for comment in comments.read_page(page):
            if comment.comment_id == comment_id:
                return [comment]
    return []


async def _around(
    pages: AsyncIterator[Page], received_at: datetime, *, may_be_older: bool
) -> Sequence[Comment]:
    """Return the comments in the window around `received_at`.

    If there are none and `may_be_older` is set, return the newest comment before the window.
    """
    found: list[Comment] = []
    async for page in pages:  # the newest first
        for comment in comments.read_page(page):
            created_at = comment.created_at or received_at
            if received_at - BEFORE <= created_at <= received_at + AFTER:
                found.append(comment)
            elif created_at < received_at:
                return found or ([comment] if may_be_older else [])
    return found


def placed(known: Sequence[FileRecord], found: Sequence[AnnouncedFile]) -> Mapping[int, AnnouncedFile]:
    """Give each new file a position: that of a known file without an address, or the next free one.

    A webhook may name a file and leave its address out.
    """
    addresses = {attachment_key(file.source_url) for file in known}
    new = {key: file for file in reversed(found) if (key := attachment_key(file.url)) not in addresses}
    missing = list(reversed(new.values()))
    places: dict[int, AnnouncedFile] = {}
    # Known files with a name are matched first; files that were only counted take the others.
    for file in sorted(known, key=lambda file: file.file_name is None):
        match = next((each for each in missing if _may_be(file, each)), None)
        if not file.source_url and match is not None:
            places[file.position] = match
            missing.remove(match)
    first = max((file.position for file in known), default=-1) + 1
    return places | dict(enumerate(missing, first))


def without_address(known: Sequence[FileRecord], places: Mapping[int, AnnouncedFile]) -> Sequence[FileRecord]:
    """Return the files that the webhook announced but Zendesk does not list."""
    return [file for file in known if not file.source_url and file.position not in places]


def _may_be(known: FileRecord, found: AnnouncedFile) -> bool:
    if known.file_name is None:
        return True
    return (
        found.file_name is not None
        and found.file_name.strip().casefold() == known.file_name.strip().casefold()
    )


def _cannot_ask(claim: Claim) -> Permanent:
    how = "set ZENDESK_SUBDOMAIN, ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET"
    if claim.comment_id:
        return Permanent("credentials_missing", f"The webhook names a comment. To look up its files, {how}.")
    return Permanent(
        "files_unknown",
        "The webhook does not list the files: add `comment_id` with {{ticket.latest_comment.id}} to the"
        f" trigger's body and {how}, or add the list `attachments` to it.",
    )
