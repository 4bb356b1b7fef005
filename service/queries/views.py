"""What is shown: the shapes of the API's answers."""

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
# Strings of JSON from outside may hold lone surrogates, which pydantic's own types refuse.
Items = Annotated[Any, Field(json_schema_extra={"anyOf": [{"type": "array", "items": {}}, {"type": "null"}]})]
Pair: JsonDict = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
Pairs = Annotated[Any, Field(json_schema_extra={"type": "array", "items": Pair})]

# What stands for a value that the row of another system lacks, until `holdfast takeover` fills it in.
UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)
Key = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
Number = Annotated[int, BeforeValidator(lambda value: 0 if value is None else value)]
Receipt = Annotated[datetime, BeforeValidator(lambda value: UNKNOWN_TIME if value is None else value)]
State = Annotated[ProcessingStatus, BeforeValidator(lambda value: "received" if value is None else value)]

# Headers that tell nothing about anybody and open nothing. Of any other, whoever may only read sees the name alone.
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
    """A file of an e-mail, and what became of it."""

    email_id: int = Field(exclude=True)
    position: int = Field(description="Its place in the e-mail, from 0")
    file_name: str | None
    status: Literal["pending", "stored", "failed"]
    declared_type: str | None = Field(description="As Zendesk says")
    detected_type: str | None = Field(description="As the bytes say")
    declared_size: int | None = Field(description="Bytes, as Zendesk says")
    size: int | None = Field(description="Bytes that are stored, or were before the object was lost")
    sha256: str | None = Field(description="Of the bytes that are stored, or were")
    object_key: str | None = Field(description="Its name in the storage")
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

    @field_serializer("href")
    def _with_prefix(self, href: str | None, info: SerializationInfo) -> str | None:
        """Put before it what the service's own paths begin with, where whoever writes the answer says so."""
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
    """An e-mail, and where its job and its sync are."""

    id: int
    zendesk_ticket_id: Key
    from_email: str | None
    from_name: str | None
    subject: str | None
    processing_status: State = Field(description="The state of its job")
    processing_error: str | None = Field(description="Why it failed, or its latest attempt did")
    error_code: str | None = Field(
        description="A word for the reason, that never changes; `not_captured` of a finished e-mail of another system whose"
        " files were not fetched"
    )
    error_host: str | None = Field(description="Where the file that failed was to come from")
    received_at: Receipt = Field(description="When the webhook came")
    started_at: datetime | None = Field(description="When the latest attempt began")
    completed_at: datetime | None = Field(description="When the job ended, well or not")
    retry_count: Number = Field(description="Attempts that were given back since the last retry by hand")
    attempt_number: int = Field(description="Attempts in all")
    abandoned_count: int = Field(description="Latest attempts in a row whose worker died; they cost no retry")
    due_at: datetime = Field(description="When the sweep looks after it again")
    lease_until: datetime | None = Field(description="Until when a worker has it")
    queued_at: datetime | None = Field(
        description="Since when it waits for its attempt: it was received or queued again, or a pause was over."
        " While it pauses, the end of the pause; null where this was not noted"
    )
    attachment_urls: Items = Field(
        description="As Zendesk sent it; null if the webhook does not tell all files, and in a list beyond 10,000 characters"
    )
    idempotency_key: Key
    account_id: str | None
    invocation_id: str | None
    comment_id: str | None
    looked_up_at: datetime | None = Field(description="When Zendesk's API told which files there are")
    sent_at: datetime | None = Field(description="The e-mail's own date")
    late: bool = Field(
        description="Its signature was of a time further from ours than WEBHOOK_TOLERANCE_SECONDS"
    )
    reread: bool = Field(description="The next attempt reads the body again, as after a retry by hand")
    sync_status: SyncStatus = Field(
        description="The state of its sync: due once the job has ended; `not_applicable` where there was no target"
    )
    sync_error: str | None = Field(description="Why it failed, or its latest attempt did")
    sync_error_code: str | None = Field(description="A word for the reason, that never changes")
    sync_retry_count: Number = Field(description="Attempts of the sync that were given back since it began")
    sync_attempt_number: int = Field(description="Attempts of syncs in all")
    sync_unsettled: int = Field(description="Attempts in a row that no worker ended")
    sync_begun_at: datetime = Field(
        description="Since when it is to be synced: its job ended, or somebody wanted it again"
    )
    sync_due_at: datetime = Field(description="When it is tried (again), or until when a worker carries it")
    synced_at: datetime | None = Field(description="When the targets last had all of it")
    attachments: Sequence[AttachmentView] = Field((), description="In a list the first 100")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def queue_seconds(self) -> float | None:
        """How long the latest attempt waited for a worker, since it was due; null while the next one waits."""
        if self.started_at is None or self.processing_status in {"received", "queued"}:
            return None
        if self.queued_at is None and self.attempt_number > 1:
            return None
        # A row that another program wrote may have a `queued_at` of later.
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
    """Something that an operator did."""

    id: int
    at: datetime
    actor: str = Field(description="Who it was, and by which way")
    action: str
    email_id: int | None
    quarantine_id: int | None
    bulk_retry_id: int | None


class EmailDetail(EmailView):
    """An e-mail with all its history."""

    attempts: Sequence[AttemptView] = ()
    actions: Sequence[ActionView] = ()


class EmailPage(View):
    """A page of e-mails; it may end early, then it looked at all that came since `searched_to`.

    Texts are cut to 300 characters; the e-mail itself has them whole.
    """

    emails: Sequence[EmailView]
    next_cursor: str | None = Field(description="Leads to the next page; null on the last one")
    searched_to: datetime | None = None
    total: int | None = Field(
        None, description="With the first page only; at least so many, where it is capped"
    )
    total_capped: bool = False


class HolderView(AttachmentView):
    """A file that has the content."""

    email_id: int


class HoldersPage(View):
    """The files that have one content, newest first; there are more where it is capped. Texts are cut to 300 characters."""

    sha256: str
    holders: Sequence[HolderView]
    capped: bool


class RequestView(View):
    """A webhook as it came."""

    headers: Pairs = Field(
        description="Names and values. Those of secrets are not kept; readers see `[hidden]` for most others"
    )
    body: str = Field(description="With U+FFFD where the bytes are not UTF-8")
    body_base64: str = Field(description="Byte for byte")

    @classmethod
    def of(cls, headers: object, body: bytes) -> "RequestView":
        text, coded = body.decode(errors="replace"), base64.b64encode(body).decode()
        return cls(headers=headers, body=text, body_base64=coded)

    def for_reader(self) -> Self:
        """Hide the values of headers that are not known to be harmless, the signature's among them."""
        headers = [
            [name, value if str(name).lower() in HARMLESS_HEADERS else HIDDEN]
            for name, value in self.headers or ()
        ]
        return self.model_copy(update={"headers": headers})


class QuarantineView(View):
    """A signed request that could not be read."""

    id: int
    received_at: datetime
    account_id: str | None
    invocation_id: str | None
    error_code: str
    error: str
    size: int = Field(description="Bytes of the body")
    replayed_at: datetime | None = Field(description="Null while it waits")
    email_id: int | None = Field(description="What the replay made of it, or found there")
    late: bool = Field(
        description="Its signature was of a time further from ours than WEBHOOK_TOLERANCE_SECONDS"
    )


class QuarantineDetail(QuarantineView, RequestView):
    """A webhook in quarantine, as it came."""


class QuarantinePage(View):
    """Requests that could not be read, newest first; texts are cut to 300 characters."""

    quarantine: Sequence[QuarantineView]
    next_cursor: str | None = Field(description="Leads to the next page; null on the last one")


class IgnoredView(View):
    """A signed event of a type that is not used."""

    id: int
    received_at: datetime
    event_type: str
    account_id: str | None
    invocation_id: str | None
    size: int = Field(description="Bytes of the body")
    replayed_at: datetime | None = Field(description="When it became an e-mail; null where it did not")
    email_id: int | None = Field(description="What the replay made of it, or found there")
    late: bool = Field(
        description="Its signature was of a time further from ours than WEBHOOK_TOLERANCE_SECONDS"
    )


class IgnoredDetail(IgnoredView, RequestView):
    """An ignored webhook, as it came."""


class IgnoredPage(View):
    """Events of types that are not used, newest first."""

    ignored: Sequence[IgnoredView]
    next_cursor: str | None = Field(description="Leads to the next page; null on the last one")
