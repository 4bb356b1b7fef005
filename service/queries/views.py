"""The shapes of the API's answers."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    computed_field,
)
from pydantic.config import JsonDict

from service.postgres.email_tables import NOT_CAPTURED

ProcessingStatus = Literal["received", "queued", "processing", "completed", "failed"]
# The parts of an e-mail that a search looks into.
Where = Literal["ticket", "subject", "from", "to", "cc", "text", "file", "error"]
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


class View(BaseModel):
    model_config = ConfigDict(
        from_attributes=True,
        frozen=True,
        json_schema_serialization_defaults_required=True,
        serialize_by_alias=True,
        defer_build=True,  # a process that shows nothing starts sooner
    )


# A path of the API, with the prefix of the service's paths if the context has one.
Href = Annotated[
    str | None,
    PlainSerializer(lambda href, info: href and (info.context or {}).get("prefix", "") + href),
]


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
    zendesk_id: str | None = Field(None, description="The attachment's id in Zendesk")
    inline: bool | None = Field(None, description="Whether it is an image in the text")
    malware: str | None = Field(
        None, description="Zendesk's verdict, such as `malware_found` or `not_scanned`"
    )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def href(self) -> Href:
        """The path of the content in the API."""
        place = f"/api/v1/emails/{self.email_id}/attachments/{self.position}/content"
        return place if self.status == "stored" else None


class AttemptView(View):
    """One run of a job."""

    number: int = Field(
        description="From 1 on; 0 and below for the attempts of e-mails that became part of this one, the newest first"
    )
    worker: str = Field(description="The process that ran it")
    started_at: datetime
    finished_at: datetime | None
    outcome: Literal["completed", "released", "failed", "handed_back", "abandoned"] | None = Field(
        description="Null while it runs"
    )
    error_code: str | None
    error: str | None


class MatchView(View):
    """A place where an e-mail has words of the query `q`."""

    where: Where
    before: str = Field(description="The text before it; … where the text is longer")
    match: str
    after: str


class DismissalView(View):
    """Who dismissed something, and why."""

    at: datetime
    by: str = Field(description="The person, and the entry point")
    reason: str = Field(description="As the person wrote it")


class Dismissible(View):
    """The columns of a dismissal, shown as one value."""

    dismissed_at: datetime | None = Field(None, exclude=True)
    dismissed_by: str | None = Field(None, exclude=True)
    dismiss_reason: str | None = Field(None, exclude=True)

    @property
    def _is_dismissed(self) -> bool:
        return True

    @computed_field(description="Who dismissed it; null if it is not dismissed")  # type: ignore[prop-decorator]
    @property
    def dismissal(self) -> DismissalView | None:
        if self.dismissed_at is None or not self._is_dismissed:
            return None
        by, reason = self.dismissed_by or "", self.dismiss_reason or ""
        return DismissalView(at=self.dismissed_at, by=by, reason=reason)


class EmailView(Dismissible):
    """An e-mail, and the states of its job and its sync."""

    id: int
    zendesk_ticket_id: Key
    from_email: str | None = Field(
        description="As Zendesk's API told it, or else the webhook; so are the next two"
    )
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
    sent_at: datetime | None = Field(
        description="The date of the e-mail itself, or of its comment in Zendesk"
    )
    origin: str = Field(
        description="What made it: `webhook`, `lookup` (of its ticket), or `backfill` (the search of the account)"
    )
    zendesk_state: str | None = Field(
        description="What Zendesk did with it since: `deleted`, `redacted` or `private`, for example; our copy stays"
    )
    zendesk_state_at: datetime | None = Field(description="When that was noticed")
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
    dismissed_attempt: int | None = Field(None, exclude=True)
    dismissed_sync_attempt: int | None = Field(None, exclude=True)
    attachments: Sequence[AttachmentView] = Field((), description="In lists, the first 100")
    matches: Sequence[MatchView] = Field(
        (), description="In lists with `q`: where it has the words; some may be missing"
    )

    @property
    def has_failed(self) -> bool:
        """Whether its job or its sync failed, or files of a previous system are missing."""
        has_error = "failed" in (self.processing_status, self.sync_status) or self.error_code == NOT_CAPTURED
        return has_error and self.processing_status in {"completed", "failed"}

    @property
    def _is_dismissed(self) -> bool:
        """Whether the dismissal is of the newest ends of job and sync: the same rule as DISMISSED."""
        is_of_sync = self.sync_status != "failed" or self.dismissed_sync_attempt == self.sync_attempt_number
        return self.has_failed and self.dismissed_attempt == self.attempt_number and is_of_sync

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
    finding_id: int | None = None
    subject: str | None = Field(None, description="The name of a hold or of a retention rule")
    reason: str | None = Field(
        None,
        description="Of a dismissal or a hold, as the person wrote it; of a change of retention rules, the new list",
    )


class PersonView(View):
    """A sender or a recipient."""

    name: str | None
    address: str | None


class MessageView(View):
    """What an e-mail says: as Zendesk's API told it, or else the webhook."""

    email_id: int = Field(exclude=True)
    source: Literal["zendesk", "webhook"] = Field(
        description="`webhook` until the message was fetched: only what the webhook's body says"
    )
    comment_id: str | None
    direction: Literal["inbound", "outbound"] | None = Field(description="Outbound: written by an agent")
    public: bool | None
    subject: str | None = Field(description="Of the ticket: Zendesk keeps no subject of a reply")
    sender: PersonView | None = Field(serialization_alias="from")
    to: Sequence[PersonView] = ()
    cc: Sequence[PersonView] = ()
    message_id: str | None = None
    sent_at: datetime | None
    text: str | None = Field(description="The plain text; at most its first 65,536 bytes of UTF-8")
    text_size: int = Field(description="Bytes of the whole text in UTF-8")
    has_html: bool = Field(False, exclude=True)
    has_original: bool = Field(False, exclude=True)
    fetched_at: datetime | None = Field(None, description="When Zendesk's API was asked")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def text_href(self) -> Href:
        """The path of the whole text."""
        return None if self.text is None else self._path("message.txt")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def html_href(self) -> Href:
        """The path of the HTML; null without HTML."""
        return self._path("message.html") if self.has_html else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def original_href(self) -> Href:
        """The path of the original e-mail; null unless it is stored."""
        return self._path("original.eml") if self.has_original else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def record_href(self) -> Href:
        """The path of the comment's JSON as Zendesk gave it; null for `webhook`."""
        return self._path("record.json") if self.source == "zendesk" else None

    def _path(self, name: str) -> str:
        return f"/api/v1/emails/{self.email_id}/{name}"


class AnnouncementView(View):
    """A further webhook about an e-mail."""

    id: int
    email_id: int = Field(exclude=True)
    received_at: datetime
    account_id: str | None
    invocation_id: str | None
    late: bool = Field(description="As of the e-mail's first webhook")
    size: int = Field(description="The size of the body in bytes")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def href(self) -> Href:
        """The path of the webhook, byte for byte."""
        return f"/api/v1/emails/{self.email_id}/announcements/{self.id}"


class EmailDetail(EmailView):
    """An e-mail with its message and its history."""

    message: MessageView | None = Field(None, description="Null if nothing is known of it")
    announcements: Sequence[AnnouncementView] = Field((), description="The first 100")
    attempts: Sequence[AttemptView] = ()
    actions: Sequence[ActionView] = ()
    held_by: Sequence[str] = Field((), description="Names of the holds that cover it: it may not be deleted")


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


class MessageHolderView(View):
    """A message whose record or original is the content."""

    email_id: int
    part: Literal["record", "original"]
    size: int


class HoldersPage(View):
    """The files and messages with one content, newest first; more exist if capped. Texts are cut to 300 characters."""

    sha256: str
    holders: Sequence[HolderView]
    messages: Sequence[MessageHolderView] = ()
    capped: bool
