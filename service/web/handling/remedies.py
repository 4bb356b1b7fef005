"""What a person can do about an error: a title in plain words, and the button that helps.

Cause and advice are those of `error_guide`, so that pages, commands and documents say the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from service.error_guide import Advice, advice_on

# The button that helps; with `settings`, somebody corrects a setting first, and with "" none of the buttons helps.
Help = Literal["retry", "dismiss", "trigger", "settings", "sync", "replay", ""]


@dataclass(frozen=True, slots=True)
class Remedy:
    """An error as a page shows it; the advice is empty if the guide has none."""

    code: str
    title: str
    cause: str = ""
    action: str = ""
    helps: Help = "retry"

    @property
    def has_guide(self) -> bool:
        """Whether /docs/errors describes the code."""
        return advice_on(self.code) is not None


def remedy_on(code: str | None, zendesk_state: str | None = None) -> Remedy:
    """Return what helps against an error; that a ticket was deleted in Zendesk explains all of its errors."""
    if zendesk_state is not None and zendesk_state in _DELETED:
        return Remedy(code or "", *_DELETED[zendesk_state], helps="dismiss")
    if not code or code == "none":
        return Remedy(
            "", "It failed without a code", "The reason has the details.", "Look at the log, and retry."
        )
    title, helps = _REMEDIES.get(code, (code.replace("_", " ").capitalize(), "retry"))
    advice = advice_on(code) or Advice(code, "", "")
    # What a code means as an answer of the API concerns no e-mail.
    cause, action = (
        advice.meaning.partition(" As an answer of Holdfast")[0],
        advice.action.partition(" For Holdfast,")[0],
    )
    return Remedy(code, title, cause, action, helps)


# A deleted ticket can be restored from the view "Deleted tickets" for 30 days, then Zendesk deletes it permanently:
# https://support.zendesk.com/hc/en-us/articles/4408835089050
# One that was archived before cannot be restored: https://support.zendesk.com/hc/en-us/articles/6388012977306
_DELETED: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "deleted": (
            "The ticket was deleted in Zendesk",
            "Zendesk gives out no file of a deleted ticket.",
            "Restore it within 30 days, from Zendesk's view Deleted tickets, and retry. If that is too late, dismiss the e-mail.",
        ),
        "permanently_deleted": (
            "The ticket was deleted permanently in Zendesk",
            "Zendesk has no file of it any more.",
            "Nothing more can be fetched. Dismiss the e-mail. What was stored before stays.",
        ),
    }
)

_REMEDIES: Mapping[str, tuple[str, Help]] = MappingProxyType(
    {
        # E-mails and their files.
        "attachment_gone": ("A file was deleted in Zendesk", "dismiss"),
        "redacted": ("A file was redacted in Zendesk", "dismiss"),
        "malware_found": ("Zendesk found malware in a file", "dismiss"),
        "not_found": ("The address of a file leads nowhere", "retry"),
        "comment_not_found": ("The comment is not in the ticket", "retry"),
        "forbidden": ("Holdfast may not see the ticket or its file", "retry"),
        "unauthorized": ("Zendesk does not accept the credentials", "settings"),
        "sign_in_page": ("Zendesk asks for a sign-in", "settings"),
        "files_unknown": ("Credentials to ask Zendesk for the files are missing", "settings"),
        "credentials_missing": ("Credentials for Zendesk are missing", "settings"),
        "credentials_refused": ("Zendesk does not accept the OAuth client", "settings"),
        "token_refused": ("Zendesk refuses its own access token", "settings"),
        "bad_url": ("The trigger sends an address that is none", "trigger"),
        "address_refused": ("The host of a file is not allowed", "retry"),
        "dns_failed": ("The host of a file has no address", "retry"),
        "connection_failed": ("The host of a file does not answer", "retry"),
        "tls_failed": ("No secure connection to the host of a file", "retry"),
        "too_large": ("A file is larger than allowed", "retry"),
        "decoded_too_large": ("A file is larger than allowed when decompressed", "retry"),
        "server_error": ("Zendesk had an error", "retry"),
        "not_ready": ("A file is not ready yet", "retry"),
        "not_captured": ("Files of the previous system were not fetched", "retry"),
        "abandoned": ("Workers died during this e-mail", "retry"),
        "internal_error": ("An error in Holdfast", "retry"),
        "storage_unavailable": ("The storage does not answer", "retry"),
        "storage_full": ("The storage is full", "retry"),
        # The sync.
        "receiver_away": ("The target cannot be reached", "sync"),
        "receiver_slow": ("The target answered too late", "sync"),
        "receiver_busy": ("The target is busy", "sync"),
        "receiver_refused": ("The target refuses the credentials", "settings"),
        "receiver_ahead": ("The target has a later version", ""),
        "document_too_large": ("The document is larger than the target accepts", "sync"),
        "document_refused": ("The target refuses this document", "sync"),
        # Webhooks in quarantine.
        "not_json": ("The trigger's template makes invalid JSON", "trigger"),
        "wrong_shape": ("The trigger's template has another shape", "trigger"),
        "no_ticket": ("The trigger's template names no ticket", "trigger"),
        "duplicate_key": ("A key occurs twice in the body", "trigger"),
        "key_reused": ("The trigger's template has a fixed webhook_id", "trigger"),
        "compressed": ("The body is encoded on the way", "replay"),
        "row_refused": ("Postgres refuses the row", "replay"),
        "value_too_long": ("A value is too long for its column", "replay"),
        "unstorable": ("Postgres cannot store a value of the body", "replay"),
    }
)
