"""Retry policy: whether another attempt follows an error, or the job ends."""

from collections.abc import Sequence

from service.errors import HoldfastError, Transient
from service.jobs.attempts import Claim
from service.resources import Resources

# Zendesk's API and its files can lag behind its webhooks; new tokens and permissions take a while to reach all servers.
_EARLY = frozenset(
    {
        "unauthorized",
        "forbidden",
        "not_found",
        "not_ready",
        "sign_in_page",
        "empty_answer",
        "comment_not_found",
        "credentials_refused",
    }
)

_LISTED_SECONDS = 10.0
# After these errors of a file, Zendesk's list may have another address of it.
DEAD = frozenset({"not_found", "attachment_gone", "sign_in_page"})


def is_young(res: Resources, claim: Claim) -> bool:
    """Return whether the webhook was received less than EARLY_SECONDS before this attempt."""
    return claim.age < res.settings.early_seconds


def is_early(res: Resources, claim: Claim) -> bool:
    """Return whether Zendesk's API may not show the comment of this e-mail yet.

    Where the webhook lists the files and names no comment, one more attempt is enough: it may concern no comment at all.
    """
    is_bare = claim.is_listed and not claim.comment_id
    return is_young(res, claim) and not (is_bare and claim.age > _LISTED_SECONDS)


def may_be_early(res: Resources, claim: Claim, error: HoldfastError) -> HoldfastError:
    """Return the error as Transient where the webhook is young and Zendesk may only be behind."""
    if error.code not in _EARLY or not is_young(res, claim):
        return error
    wait = error.retry_after if isinstance(error, Transient) else None
    return Transient(error.code, error.message, wait, is_limited=False)


def may_try_again(res: Resources, claim: Claim, error: HoldfastError) -> bool:
    """Return whether another attempt may succeed, and the budget of retries allows it."""
    if not isinstance(error, Transient):
        return False
    return not error.is_limited or claim.retry_count < res.settings.max_retries


def worth_another_attempt(
    res: Resources, claim: Claim, errors: Sequence[HoldfastError]
) -> Sequence[Transient]:
    """Return the errors for which another attempt follows; none where the job ends."""
    return [error for error in errors if isinstance(error, Transient) and may_try_again(res, claim, error)]


def should_look_up(res: Resources, claim: Claim, *, is_stale: bool) -> bool:
    """Return whether to ask Zendesk's API for the message and the files of this e-mail.

    With credentials always, and once; again where `is_stale`: an address is no longer valid, or a file waited for its
    scan. Without credentials, where the webhook does not list its files: that ends with the advice to set them.
    `comment_id` is "" where files stand only in the HTML of a webhook.
    """
    if res.zendesk.has_login:
        return is_stale or not claim.looked_up
    return not claim.looked_up and (not claim.is_listed or claim.comment_id == "")


def is_dispensable(res: Resources, claim: Claim, error: HoldfastError) -> bool:
    """Return whether a failed look-up does not matter: the webhook listed the files, and Zendesk has no more.

    The ticket is deleted, or the webhook names no comment. A named comment in a ticket that is there is only not shown.
    """
    is_gone = error.code == "not_found" or (error.code == "comment_not_found" and not claim.comment_id)
    return claim.is_listed and is_gone and not is_early(res, claim)
