"""What is shown: the shapes of the API's answers."""

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, computed_field


class View(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class AttachmentView(View):
    email_id: int = Field(exclude=True)
    position: int
    file_name: str | None
    status: str
    declared_type: str | None
    detected_type: str | None
    declared_size: int | None
    size: int | None
    sha256: str | None
    object_key: str | None
    source_url: str
    stored_at: datetime | None
    error_code: str | None
    error: str | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def href(self) -> str | None:
        """Where the API serves the bytes."""
        place = f"/api/v1/emails/{self.email_id}/attachments/{self.position}/content"
        return place if self.status == "stored" else None


class AttemptView(View):
    number: int
    worker: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    error_code: str | None
    error: str | None


class EmailView(View):
    id: int
    zendesk_ticket_id: str
    from_email: str | None
    from_name: str | None
    subject: str | None
    processing_status: str
    processing_error: str | None
    error_code: str | None
    error_host: str | None
    received_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    retry_count: int
    attempt_number: int
    due_at: datetime
    lease_until: datetime | None
    attachment_urls: Any
    idempotency_key: str
    account_id: str | None
    invocation_id: str | None
    comment_id: str | None
    sent_at: datetime | None
    sync_status: str
    sync_error: str | None
    sync_retry_count: int
    attachments: Sequence[AttachmentView] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def queue_seconds(self) -> float | None:
        """From the webhook to the start of the latest attempt."""
        return (self.started_at - self.received_at).total_seconds() if self.started_at else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def processing_seconds(self) -> float | None:
        """From the start of the latest attempt to the end of the job."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()


class ActionView(View):
    """Something that an operator did."""

    id: int
    at: datetime
    actor: str
    action: str
    email_id: int | None
    quarantine_id: int | None
    bulk_retry_id: int | None


class EmailDetail(EmailView):
    attempts: Sequence[AttemptView] = ()
    actions: Sequence[ActionView] = ()


class Page(View):
    """A page of e-mails; it may end early, then it looked at all that came since `searched_to`."""

    emails: Sequence[EmailView]
    next_cursor: str | None
    searched_to: datetime | None = None
    total: int | None = None  # with the first page only; at least so many, where it is capped
    total_capped: bool = False


class HolderView(AttachmentView):
    email_id: int


class HoldersPage(View):
    """The files that have one content, newest first; there are more where it is capped."""

    sha256: str
    holders: Sequence[HolderView]
    capped: bool


class RequestView(View):
    """A webhook as it came."""

    headers: Any
    body: str  # with U+FFFD where the bytes are not UTF-8
    body_base64: str

    @classmethod
    def of(cls, headers: object, body: bytes) -> "RequestView":
        text, coded = body.decode(errors="replace"), base64.b64encode(body).decode()
        return cls(headers=headers, body=text, body_base64=coded)


class QuarantineView(View):
    id: int
    received_at: datetime
    account_id: str | None
    invocation_id: str | None
    error_code: str
    error: str
    size: int  # bytes of the body
    replayed_at: datetime | None
    email_id: int | None


class QuarantineDetail(QuarantineView, RequestView):
    """A webhook in quarantine, as it came."""


class QuarantinePage(View):
    quarantine: Sequence[QuarantineView]
    next_cursor: str | None
