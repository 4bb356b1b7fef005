"""Ask Zendesk's API which files an e-mail has, where its webhook does not tell."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from service.errors import Permanent, Transient
from service.jobs.running import Claim
from service.resources import Resources
from service.zendesk import comments
from service.zendesk.comments import Comment
from service.zendesk.payloads import Attachment

Page = Mapping[str, object]

# A webhook that names no comment is about one of about its own time. Two quick e-mails may announce each other, and
# clocks differ: rather some files twice, which is one object, than one of them never.
BEFORE = timedelta(hours=1)
AFTER = timedelta(minutes=5)


def has_to_look_up(claim: Claim) -> bool:
    """Say whether the webhook leaves open which files there are, and nobody has asked yet."""
    return not claim.is_listed and not claim.looked_up


def should_look_up(res: Resources, claim: Claim, *, has_files: bool) -> bool:
    """Say whether to ask although the webhook says that there are no files: inline images are in no such list."""
    is_named = bool(claim.comment_id) and not has_files and not claim.looked_up
    return has_to_look_up(claim) or (is_named and res.zendesk.has_login)


async def look_up(res: Resources, claim: Claim) -> Sequence[Attachment]:
    """Return the files of the comment that the webhook is about; raises Transient and Permanent."""
    if not res.zendesk.has_login:
        raise _cannot_ask(claim)
    received_at = datetime.now(UTC) - timedelta(seconds=claim.age)
    pages = res.zendesk.pages(comments.path(claim.ticket_id), comments.MOST_PAGES, **comments.QUERY)
    async with aclosing(pages):
        if claim.comment_id:
            found = await _named(pages, claim.comment_id)
        else:
            received_at = datetime.now(UTC) - timedelta(seconds=claim.age)
            found = await _of_that_time(pages, received_at)
    if not found:
        which = f"comment {claim.comment_id}" if claim.comment_id else "comment"
        # The API may be some moments behind the triggers.
        raise Transient("comment_not_found", f"Ticket {claim.ticket_id} has no {which} (yet).")
    return [file for comment in found for file in comment.files]


async def _named(pages: AsyncIterator[Page], comment_id: str) -> Sequence[Comment]:
    async for page in pages:
        for comment in comments.read_page(page):
            if comment.comment_id == comment_id:
                return [comment]
    return []


async def _of_that_time(pages: AsyncIterator[Page], received_at: datetime) -> Sequence[Comment]:
    """Find the comments that a webhook of this time may be about; else the newest one before it."""
    found: list[Comment] = []
    async for page in pages:  # the newest first
        for comment in comments.read_page(page):
            created_at = comment.created_at or received_at
            if received_at - BEFORE <= created_at <= received_at + AFTER:
                found.append(comment)
            elif created_at < received_at:
                return found or [comment]
    return found


def _cannot_ask(claim: Claim) -> Permanent:
    how = "set ZENDESK_SUBDOMAIN, ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET"
    if claim.comment_id:
        return Permanent("credentials_missing", f"The webhook names a comment. To look up its files, {how}.")
    return Permanent(
        "files_unknown",
        "The webhook does not tell which files there are: add `comment_id` with {{ticket.latest_comment.id}} to the"
        f" trigger's body and {how}, or add the list `attachments` to it.",
    )
