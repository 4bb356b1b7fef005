"""What is shown: the shapes of the API's answers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, computed_field

ProcessingStatus = Literal["received", "queued", "processing", "completed", "failed"]
# Strings of JSON from outside may hold lone surrogates, which pydantic's own types refuse.
Items = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "array", "items": {}}, {"type": "null"}]})]
Pair = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
Pairs = Annotated[Any, WithJsonSchema({"type": "array", "items": Pair})]


class View(BaseModel):
    model_config = ConfigDict(
        from_attributes=True, frozen=True, json_schema_serialization_defaults_required=True
    )


class AttachmentView(View):
    """A file of an e-mail, and what became of it."""

    email_id: int = Field(exclude=True)
    position: int = Field(description="its place in the e-mail, from 0")
    file_name: str | None
    status: Literal["pending", "stored", "failed"]
    declared_type: str | None = Field(description="as Zendesk says")
    detected_type: str | None = Field(description="as the bytes say")
    declared_size: int | None = Field(description="bytes, as Zendesk says")
    size: int | None = Field(description="bytes that are stored")
    sha256: str | None
    object_key: str | None = Field(description="its name in the storage")
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
    """One run of a job."""

    number: int
    worker: str = Field(description="the name of its process")
    started_at: datetime
    finished_at: datetime | None
    outcome: Literal["completed", "released", "failed", "handed_back", "abandoned"] | None = Field(
        description="null while it runs"
    )
    error_code: str | None
    error: str | None


class EmailView(View):
    """An e-mail, and where its job is."""

    id: int
    zendesk_ticket_id: str
    from_email: str | None
    from_name: str | None
    subject: str | None
    processing_status: ProcessingStatus = Field(description="the state of its job")
    processing_error: str | None = Field(description="why it failed, or its latest attempt did")
    error_code: str | None = Field(description="a word for the reason, that never changes")
    error_host: str | None = Field(description="where the file that failed was to come from")
    received_at: datetime = Field(description="when the webhook came")
    started_at: datetime | None = Field(description="when the latest attempt began")
    completed_at: datetime | None = Field(description="when the job ended, well or not")
    retry_count: int = Field(description="attempts that were given back, since the last retry by hand")
    attempt_number: int = Field(description="attempts in all")
    due_at: datetime = Field(description="when the sweep looks after it again")
    lease_until: datetime | None = Field(description="until when a worker has it")
    attachment_urls: Items = Field(description="as Zendesk sent it; null if it only named a comment")
    idempotency_key: str
    account_id: str | None
    invocation_id: str | None
    comment_id: str | None
    sent_at: datetime | None = Field(description="the e-mail's own date")
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


class EmailDetail(EmailView):
    """An e-mail with all its history."""

    attempts: Sequence[AttemptView] = ()


class EmailPage(View):
    """E-mails, newest first."""

    emails: Sequence[EmailView]
    next_cursor: str | None = Field(description="leads to the next page; null on the last one")


class QuarantineView(View):
    """A signed request that could not be read."""

    id: int
    received_at: datetime
    account_id: str | None
    invocation_id: str | None
    error_code: str
    error: str
    size: int = Field(description="bytes of the body")
    replayed_at: datetime | None = Field(description="null while it waits")
    email_id: int | None = Field(description="what the replay made of it, or found there")


class QuarantineDetail(QuarantineView):
    """A request as it came."""

    headers: Pairs = Field(description="names and values; those of secrets are not kept")
    body: str = Field(description="with U+FFFD where the bytes are not UTF-8")
    body_base64: str = Field(description="byte for byte")


class QuarantinePage(View):
    """Requests that could not be read, newest first."""

    quarantine: Sequence[QuarantineView]
    next_cursor: str | None = Field(description="leads to the next page; null on the last one")


class Stats(View):
    """Counts end at a cap; `capped` names those that did."""

    by_status: Mapping[ProcessingStatus, int]
    quarantined: int = Field(description="requests that wait to be replayed")
    capped: Sequence[ProcessingStatus | Literal["quarantined"]]
    oldest_waiting_seconds: float | None = Field(
        description="the age of the oldest e-mail that is not finished"
    )
