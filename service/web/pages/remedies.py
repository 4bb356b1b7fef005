"""What the pages of an e-mail, a group of failures and a webhook in quarantine offer against an error."""

from typing import Any

from service.postgres.selection import NONE
from service.queries.emails import EmailFilter
from service.queries.views import EmailDetail
from service.web.handling.remedies import Remedy, remedy_on
from service.zendesk.account import Account

# The page of the Admin Center on which triggers are changed: Objects and rules > Business rules > Triggers.
_TRIGGERS = "/admin/objects-rules/rules/triggers"


def of_email(email: EmailDetail, account: Account) -> dict[str, Any]:
    """Return the remedies of an e-mail's job and sync, each None without an error, for its page."""
    is_failed = email.processing_status == "failed"
    has_error = is_failed or (email.processing_status == "completed" and email.error_code)
    state = email.zendesk_state if is_failed else None
    return {
        "remedy": remedy_on(email.error_code, state) if has_error else None,
        "sync_remedy": remedy_on(email.sync_error_code) if email.sync_status == "failed" else None,
        "triggers_url": triggers_url(account),
    }


def of_list(wanted: EmailFilter | None) -> Remedy | None:
    """Return the remedy of a list of e-mails that all failed with one code; None for any other list."""
    if wanted is None or wanted.status != "failed" or wanted.error_code in {None, NONE}:
        return None
    return remedy_on(wanted.error_code)


def triggers_url(account: Account) -> str | None:
    """Return the address of the account's triggers; None if the account is not known."""
    return None if account.url is None else str(account.url.with_path(_TRIGGERS))
