"""The shapes of the API's answers."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    computed_field,
    field_serializer,
)
from pydantic.config import JsonDict

ProcessingStatus = Literal["received", "queued", "processing", "completed", "failed"]
SyncStatus = Literal["not_applicable", "pending", "synced", "failed"]
# JSON from outside may contain lone surrogates, which pydantic's string types refuse.
Items = Annotated[Any, Field(json_schema_extra={"anyOf": [{"type": "array", "items": {}}, {"type": "null"}]})]
Pair: JsonDict = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
Pairs = Annotated[Any, Field(json_schema_extra={"type": "array", "items": Pair})]

# Replaces a value that a row of a previous system lacks, until `holdfast takeover` fills it in.
UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)
Key = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
Number = Annotated[int, BeforeValidator(lambda value: 0 if value is None else value)]
Receipt = Annotated[datetime, BeforeValidator(lambda value: UNKNOWN_TIME if value is None else value)]
State = Annotated[ProcessingStatus, BeforeValidator(lambda value: "received" if value is None else value)]

# Headers without personal data or secrets. Readers see only the names of all others.
HARMLESS_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "host",
        "transfer-encoding",
        "user-agent",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-request-id",
        "x-request-start",
        "x-zendesk-account-id",
        "x-zendesk-webhook-id",
        "x-zendesk-webhook-invocation-id",
        "x-zendesk-webhook-signature-timestamp",
    }
)
HIDDEN = "[hidden]"


class View(BaseModel):
    model_config = ConfigDict(
        from_attributes=True, frozen=True, json_schema_serialization_defaults_required=True
    )


class AttachmentView(View):
    """A file of an e-mail, and its state."""

    email_id: int = Field(exclude=True)
    position: int = Field(description="Its place in the e-mail, from 0")
    file_name: str | None
    status: Literal["pending", "stored", "failed"]
    declared_type: str | None = Field(description="According to Zendesk")
    detected_type: str | None = Field(description="Detected from the content")
    declared_size: int | None = Field(description="Bytes, according to Zendesk")
    size: int | None = Field(description="Stored bytes, also after the object was lost")
    sha256: str | None = Field(description="The hash of the stored bytes, also after the object was lost")
    object_key: str | None = Field(description="The object's key in the storage")
    source_url: str
    stored_at: datetime | None
    error_code: str | None
    error: str | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def href(self) -> str | None:
        """The path of the content in the API."""
        place = f"/api/v1/emails/{self.email_id}/attachments/{self.position}/content"
        return place if self.status == "stored" else None

    @field_serializer("href")
    def _with_prefix(self, href: str | None, info: SerializationInfo) -> str | None:
        """Add the prefix of the service's paths, if the context has one."""
        return href and (info.context or {}).get("prefix", "") + href


class AttemptView(View):
    """One run of a job."""

    number: int
    worker: str = Field(description="The process that ran it")
    started_at: datetime
    finished_at: datetime | None
    outcome: Literal["completed", "released", "failed", "handed_back", "abandoned"] | None = Field(
        description="Null while it runs"
    )
    error_code: str | None
    error: str | None


class EmailView(View):
    """An e-mail, and the states of its job and its sync."""

    id: int
    zendesk_ticket_id: Key
    from_email: str | None
    from_name: str | None
    subject: str | None
    processing_status: State = Field(description="The state of its job")
    processing_error: str | None = Field(description="The error of the job or of its latest attempt")
    error_code: str | None = Field(
        description="A stable code of the error; `not_captured` for a finished e-mail of a previous system whose"
        " files were not fetched"
    )
    error_host: str | None = Field(description="The host of the file that failed")
    received_at: Receipt = Field(description="When the webhook was received")
    started_at: datetime | None = Field(description="When the latest attempt began")
    completed_at: datetime | None = Field(description="When the job completed or failed")
    retry_count: Number = Field(description="Retries since the last retry by a person")
    attempt_number: int = Field(description="Attempts in all")
    abandoned_count: int = Field(
        description="Latest attempts in a row whose worker died; these use up no retry"
    )
    due_at: datetime = Field(description="When the sweep enqueues it again")
    lease_until: datetime | None = Field(description="The end of the worker's lease")
    queued_at: datetime | None = Field(
        description="Since when it waits for its attempt: the receipt, the enqueuing, or the end of a pause."
        " During a pause, its end; null if not recorded"
    )
    attachment_urls: Items = Field(
        description="As Zendesk sent it; null if the webhook does not list all files, and in lists beyond 10,000 characters"
    )
    idempotency_key: Key
    account_id: str | None
    invocation_id: str | None
    comment_id: str | None
    looked_up_at: datetime | None = Field(description="When the files were looked up in Zendesk's API")
    sent_at: datetime | None = Field(description="The date of the e-mail itself")
    late: bool = Field(
        description="Whether its signature's time differed from ours by more than WEBHOOK_TOLERANCE_SECONDS"
    )
    reread: bool = Field(
        description="Whether the next attempt parses the body again, as after a retry by a person"
    )
    sync_status: SyncStatus = Field(
        description="The state of its sync, which starts at the end of the job; `not_applicable` without a target"
    )
    sync_error: str | None = Field(description="The error of the sync or of its latest attempt")
    sync_error_code: str | None = Field(description="A word for the reason, that never changes")
    sync_retry_count: Number = Field(description="Attempts of the sync that were given back since it began")
    sync_attempt_number: int = Field(description="Attempts of syncs in all")
    sync_unsettled: int = Field(description="Attempts in a row that no worker ended")
    sync_begun_at: datetime = Field(
        description="When the sync began: the end of the job, or a retry of the sync"
    )
    sync_due_at: datetime = Field(
        description="When the next attempt is due, or the end of the worker's lease"
    )
    synced_at: datetime | None = Field(description="When all targets last had the document")
    attachments: Sequence[AttachmentView] = Field((), description="In lists, the first 100")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def queue_seconds(self) -> float | None:
        """Wait of the latest attempt for a worker; null while the next one waits."""
        if self.started_at is None or self.processing_status in {"received", "queued"}:
            return None
        if self.queued_at is None and self.attempt_number > 1:
            return None
        # A row that another program wrote may have a later `queued_at`.
        is_known = self.queued_at is not None and self.queued_at <= self.started_at
        since = self.queued_at if is_known and self.queued_at else self.received_at
        return (self.started_at - since).total_seconds()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def processing_seconds(self) -> float | None:
        """From the start of the latest attempt to the end of the job."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()


class ActionView(View):
    """An action of an operator."""

    id: int
    at: datetime
    actor: str = Field(description="The person, and the entry point")
    action: str
    email_id: int | None
    quarantine_id: int | None
    bulk_retry_id: int | None


class EmailDetail(EmailView):
    """An e-mail with its history."""

    attempts: Sequence[AttemptView] = ()
    actions: Sequence[ActionView] = ()


class EmailPage(View):
    """A page of e-mails; it may end early, and has then searched all e-mails received since `searched_to`.

    Texts are cut to 300 characters; the e-mail itself has them whole.
    """

    emails: Sequence[EmailView]
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page")
    searched_to: datetime | None = None
    total: int | None = Field(None, description="Only on the first page; at least so many if capped")
    total_capped: bool = False


class HolderView(AttachmentView):
    """A file with the content."""

    email_id: int


class HoldersPage(View):
    """The files with one content, newest first; more exist if capped. Texts are cut to 300 characters."""

    sha256: str
    holders: Sequence[HolderView]
    capped: bool


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


class QuarantineView(View):
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


class QuarantineDetail(QuarantineView, RequestView):
    """A quarantined webhook with its body."""


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
