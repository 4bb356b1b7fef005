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


def is_young(res: Resources, claim: Claim) -> bool:
    """Return whether the webhook was received less than EARLY_SECONDS before this attempt."""
    return claim.age < res.settings.early_seconds


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
