"""The shapes of original webhooks in answers of the API: of those that became e-mails, in quarantine, and ignored."""

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Self

from pydantic import Field

from service.queries.views import Dismissible, Pairs, View

# Headers without personal data or secrets. Readers see only the names of all others.
HARMLESS_HEADERS = frozenset(
    {
        *("accept", "accept-encoding", "accept-language", "connection", "content-encoding", "content-length"),
        *("content-type", "date", "expect", "host", "transfer-encoding", "user-agent"),
        *("x-forwarded-port", "x-forwarded-proto", "x-request-id", "x-request-start"),
        *("x-zendesk-account-id", "x-zendesk-webhook-id", "x-zendesk-webhook-invocation-id"),
        "x-zendesk-webhook-signature-timestamp",
    }
)
HIDDEN = "[hidden]"


class RequestView(View):
    """An original webhook."""

    headers: Pairs = Field(
        description="Names and values. Secrets are not saved; readers see `[hidden]` for most others"
    )
    body: str = Field(description="Bytes that are not UTF-8 become U+FFFD")
    body_base64: str = Field(description="The exact bytes")

    @classmethod
    def of(cls, headers: object, body: bytes) -> "RequestView":
        text, coded = body.decode(errors="replace"), base64.b64encode(body).decode()
        return cls(headers=headers, body=text, body_base64=coded)

    def for_reader(self) -> Self:
        """Hide the values of all headers but the harmless ones."""
        headers = [
            [name, value if str(name).lower() in HARMLESS_HEADERS else HIDDEN]
            for name, value in self.headers or ()
        ]
        return self.model_copy(update={"headers": headers})


class GuessView(View):
    """What a body that cannot be read seems to be about; null where nothing looks like it."""

    ticket: str | None
    subject: str | None


class MistakeView(View):
    """The place where a body stops being JSON, or repeats a key with another value."""

    line: int = Field(description="Counted from 1")
    column: int = Field(description="In characters, counted from 1")
    reason: str
    before: str = Field(description="The text before the place")
    at: str = Field(description="The character at the place; empty at the end of the body")
    after: str


class CorrectionView(View):
    """A body that a person corrected; the original stays as it came."""

    at: datetime
    by: str = Field(description="The person, and the entry point")
    sha256: str = Field(description="The hash of the corrected body")
    original_sha256: str = Field(description="The hash of the body that Zendesk sent")
    body: str = Field(description="The corrected body")
    error_code: str | None = Field(description="Why no e-mail could be made of it; null if it is accepted")


class QuarantineView(Dismissible):
    """A signed webhook that could not be parsed."""

    id: int
    received_at: datetime
    account_id: str | None
    invocation_id: str | None
    error_code: str
    error: str
    size: int = Field(description="The size of the body in bytes")
    replayed_at: datetime | None = Field(description="Null if not replayed")
    email_id: int | None = Field(description="The e-mail that the replay created or found")
    late: bool = Field(
        description="Whether its signature's time differed from ours by more than WEBHOOK_TOLERANCE_SECONDS"
    )
    guess: GuessView

    @property
    def _is_dismissed(self) -> bool:
        return self.replayed_at is None


class QuarantineDetail(QuarantineView, RequestView):
    """A quarantined webhook with its body."""

    mistake: MistakeView | None = Field(description="Null if the body has no such place")
    same_key_email_id: int | None = Field(
        description="The e-mail that has the same key, and another body, if that is why it is in quarantine"
    )
    corrections: Sequence[CorrectionView] = Field(description="Newest first")


class QuarantinePage(View):
    """Quarantined webhooks, newest first; texts are cut to 300 characters."""

    quarantine: Sequence[QuarantineView]
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page")


class IgnoredView(View):
    """A signed webhook of an unused event type."""

    id: int
    received_at: datetime
    event_type: str
    account_id: str | None
    invocation_id: str | None
    size: int = Field(description="The size of the body in bytes")
    replayed_at: datetime | None = Field(description="When it became an e-mail; null if it did not")
    email_id: int | None = Field(description="The e-mail that the replay created or found")
    late: bool = Field(
        description="Whether its signature's time differed from ours by more than WEBHOOK_TOLERANCE_SECONDS"
    )


class IgnoredDetail(IgnoredView, RequestView):
    """An ignored webhook with its body."""


class IgnoredPage(View):
    """Ignored webhooks, newest first."""

    ignored: Sequence[IgnoredView]
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page")
