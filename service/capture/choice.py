"""Choose what to keep of a ticket's comments: which comment is which waiting e-mail, and which are e-mails nobody announced."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.jobs.messages import KnownEmails, WaitingEmail
from service.outbound.addresses import attachment_key
from service.zendesk.messages import CommentMessage

# A webhook that names no comment is matched with those in this window around its receipt.
BEFORE = timedelta(hours=1)
AFTER = timedelta(minutes=5)
# A webhook comes seconds after its comment: one that was made so long before it is new.
JUST = timedelta(minutes=1)
# The API may be seconds behind a webhook. Until this time after the receipt, an older comment is not taken for its own.
LAG = timedelta(seconds=30)
# The clocks of Zendesk and of Postgres may differ by so much.
_SKEW = timedelta(seconds=5)


@dataclass(slots=True)
class Choice:
    """Comments to keep, with the e-mail of each, or None for one that nobody announced; and e-mails that are none."""

    kept: list[tuple[int | None, CommentMessage]] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)

    @property
    def settled(self) -> set[int]:
        """The e-mails that need no other look-up."""
        return {email_id for email_id, _ in self.kept if email_id is not None} | set(self.ignored)


def choose(
    comments: Sequence[CommentMessage],
    known: KnownEmails,
    waited: Collection[int],
    overdue: Collection[int] = (),
    now: datetime | None = None,
) -> Choice:
    """Choose among a ticket's newest comments, the newest first.

    `waited` are the e-mails that waited before the comments were asked for: only the comments of those are surely among
    them. For `overdue` ones, an older comment or one without their files will do. An e-mail that nobody announced is kept
    if it is no older than an hour before the newest one that is kept already. `now` is the time of the look-up, by
    default that of `known`.
    """
    choice, by_id = Choice(), {comment.comment_id: comment for comment in comments}
    since_lag = (now or known.now) - LAG
    times = [known.newest] if known.newest else []
    for email in known.waiting:
        if email.comment_id is not None:
            comment = by_id.get(email.comment_id)
        elif email.email_id in waited:
            comment = _comment_of(
                email,
                comments,
                known.comments,
                is_overdue=email.email_id in overdue,
                may_lag=email.received_at > since_lag,
            )
        else:
            continue
        if known.newest is None:
            made_at = comment.created_at if comment else None
            times.append(min(made_at or email.received_at, email.received_at))
        if comment is None:
            continue
        is_by_email = comment.is_email or email.is_listed
        if comment.is_by_agent and not is_by_email and not email.addresses:
            choice.ignored.append(email.email_id)
        else:
            choice.kept.append((email.email_id, comment))
    taken = known.comments | {comment.comment_id for _, comment in choice.kept}
    others = [comment for comment in comments if comment.comment_id not in taken]
    choice.kept += [(None, comment) for comment in _unannounced(others, min(times, default=None))]
    return choice


def _unannounced(comments: Sequence[CommentMessage], since: datetime | None) -> list[CommentMessage]:
    """Return the comments by e-mail since an hour before this time; none where no kept comment has a time."""
    if since is None:
        return []
    return [
        each for each in comments if each.is_email and each.created_at and each.created_at >= since - BEFORE
    ]


def _comment_of(
    email: WaitingEmail,
    comments: Sequence[CommentMessage],
    taken: Collection[str],
    *,
    is_overdue: bool,
    may_lag: bool,
) -> CommentMessage | None:
    """Find the comment of an e-mail whose webhook named none: by its files, or else by time and sender.

    `taken` are the comments that are e-mails already. The webhook may be a further announcement of one; but one without
    the announced files is another e-mail, and so is, while the API may lag behind, one that is not new.
    """
    keys = {attachment_key(address) for address in email.addresses if address}
    if keys:
        found, has_all = _with_files(keys, comments)
        if found and (has_all or is_overdue or not may_lag):
            return found
        if not is_overdue:
            return None
        comments = [each for each in comments if each.comment_id not in taken]
    near = [comment for comment in comments if _is_near(email, comment)]
    if may_lag and not is_overdue:
        near = [each for each in near if _is_new(email, each, taken)]
    if near:
        return min(near, key=lambda comment: _distance(email, comment))
    if not is_overdue or keys:
        return None
    older = (each for each in comments if each.created_at and each.created_at < email.received_at)
    return next(older, None)


def _with_files(
    keys: Collection[str], comments: Sequence[CommentMessage]
) -> tuple[CommentMessage | None, bool]:
    """Find the newest comment with all these files; or else with any, for a webhook may list those of the whole ticket.

    Say also whether the comments have all of the files.
    """
    sharing = [comment for comment in comments if not _keys(comment).isdisjoint(keys)]
    whole = [comment for comment in sharing if _keys(comment).issuperset(keys)]
    has_all = set().union(*map(_keys, sharing)).issuperset(keys)
    return next(iter(whole or sharing), None), has_all


def _keys(comment: CommentMessage) -> set[str]:
    return {attachment_key(file.url) for file in comment.files}


def _is_near(email: WaitingEmail, comment: CommentMessage) -> bool:
    created_at = comment.created_at or email.received_at
    return email.received_at - BEFORE <= created_at <= email.received_at + AFTER


def _is_new(email: WaitingEmail, comment: CommentMessage, taken: Collection[str]) -> bool:
    """Say whether a comment was made just before the webhook, or is one by a customer that no e-mail has."""
    is_customers = comment.is_email or not comment.is_by_agent
    created_at = comment.created_at or email.received_at
    return created_at >= email.received_at - JUST or (is_customers and comment.comment_id not in taken)


def _distance(email: WaitingEmail, comment: CommentMessage) -> tuple[bool, bool, bool, timedelta]:
    """Prefer e-mails, the webhook's sender, comments from before the webhook, and then the nearest in time."""
    sender = (comment.sender.address or "").casefold()
    is_other = email.from_email is not None and email.from_email.casefold() != sender
    ahead = (comment.created_at or email.received_at) - email.received_at
    return not comment.is_email, is_other, ahead > _SKEW, abs(ahead)
