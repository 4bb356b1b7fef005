"""The filter of operators: its fields select e-mails. And the reason that a person gives."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from service.errors import Rejected
from service.formatting import one_line

# The object of a retry: the job, or only the sync.
What = Literal["job", "sync"]
BulkAction = Literal["retry", "dismiss", "undismiss"]
# The actions on webhooks in quarantine.
WebhookAction = Literal["replay", "dismiss", "undismiss"]
# In a filter: the failure has no code, or no host.
NONE = "none"
MOST_SENDER = 400  # characters in the index of senders

MOST_TICKET = 200  # characters

MOST_REASON = 500  # characters
MOST_IDS = 200  # in a filter

STORABLE = r"^[^\u0000]*$"  # what a text column of Postgres accepts
# The pattern documents the validator's rule.
Text = Annotated[str, Field(json_schema_extra={"pattern": STORABLE})]

# Blanks around a ticket or an address are no part of it. What people write in place of one is refused: a number sign, a name
# beside the address, a domain. What stands on record is not: MAILER-DAEMON, or a ticket that is no number.
TICKET_FORM = r"^\s*[^\s#,;0][^\s#,;]*\s*$"
_NO_ADDRESS = r"\s<>,;@\u0000-\u001f\u007f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
_QUOTED = r'"[^"<>@\u0000-\u001f]+"'
ADDRESS_FORM = rf"^\s*(?:(?!mailto:)(?:{_QUOTED}|[^{_NO_ADDRESS}]+)@[^{_NO_ADDRESS}]*[^.{_NO_ADDRESS}]|[^.{_NO_ADDRESS}]+)\s*$"

# The patterns document the rules of `ticket_number` and `sender_address`.
TicketNumber = Annotated[str, Field(max_length=MOST_TICKET, json_schema_extra={"pattern": TICKET_FORM})]
SenderAddress = Annotated[str, Field(max_length=MOST_SENDER, json_schema_extra={"pattern": ADDRESS_FORM})]

_NUMBER = re.compile(r"\s*[+-]?[0-9.]*\s*")  # pydantic would take it for seconds since 1970


def _written(value: object) -> object:
    if isinstance(value, (int, float)) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError("is a number; write it as 2025-11-03T12:00:00Z")
    return value


def _aware(value: datetime) -> datetime:
    try:
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the range of times in Postgres") from None


# A time without a zone is in UTC.
Time = Annotated[datetime, BeforeValidator(_written), AfterValidator(_aware)]


def ticket_number(value: str) -> str:
    """Return a ticket's number without blanks around it; raises ValueError for anything else."""
    if not re.fullmatch(TICKET_FORM, value):
        raise ValueError("is no ticket: write its number alone, as in 35434")
    return value.strip()


def sender_address(value: str) -> str:
    """Return the address of a sender without blanks around it; raises ValueError for anything else."""
    if not re.fullmatch(ADDRESS_FORM, value):
        raise ValueError("is no address: write one address alone, without a name, as in ann@customer.example")
    return value.strip()


@dataclass(frozen=True, slots=True)
class BulkTask:
    """What is done to all e-mails of a filter: retry their jobs or only their syncs, or dismiss them with a reason."""

    action: BulkAction = "retry"
    what: What = "job"
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookTask:
    """What is done to all webhooks in quarantine that match a filter."""

    action: WebhookAction
    reason: str | None = None
    what: Literal["webhook"] = "webhook"


RETRY, SYNC = BulkTask(), BulkTask(what="sync")


class Selection(BaseModel):
    """A filter: it selects the e-mails that match all given fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: str | None = Field(
        None,
        pattern=f"^[0-9]{{1,18}}(,[0-9]{{1,18}}){{0,{MOST_IDS - 1}}}$",
        description="Ids of e-mails, with commas between them",
    )
    status: Literal["received", "queued", "processing", "completed", "failed"] | None = Field(
        None, description="Status of the job"
    )
    sync_status: Literal["not_applicable", "pending", "synced", "failed", "unsynced"] | None = Field(
        None,
        description="Status of the sync; `unsynced`: finished and neither synced nor pending, because its sync failed"
        " or because there was no target when it finished",
    )
    origin: Literal["webhook", "lookup", "backfill"] | None = Field(
        None,
        description="What made the e-mail: a webhook, the look-up of its ticket, or the search of the account",
    )
    zendesk_state: (
        Literal["deleted", "permanently_deleted", "redacted", "private", "merged", "any"] | None
    ) = Field(None, description="What Zendesk did with it since; `any`: all that Zendesk changed")
    dismissed: bool | None = Field(
        None, description="Whether a person dismissed what failed, so that it needs no attention"
    )
    ticket: Text | None = Field(None, max_length=200, description="The ticket's number, as in the webhook")
    sender: Text | None = Field(
        None, max_length=MOST_SENDER, description="The sender's address; case does not matter"
    )
    error_code: Text | None = Field(
        None, max_length=100, description="Code of the failure; `none`: failures without one"
    )
    sync_error_code: Text | None = Field(None, max_length=100, description="Code of the sync's failure")
    host: Text | None = Field(
        None, max_length=300, description="Host of the file that failed; `none`: failures without one"
    )
    q: Text | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Words in any order, each also as the beginning of a longer one: in ticket, subject, people, text,"
        " names of files, or error. Case, accents and umlauts do not matter; V-4711 is found as V4711, too",
    )
    received_after: Time | None = Field(None, description="At this time or later; UTC where no zone is given")
    received_before: Time | None = Field(None, description="Before this time; UTC where no zone is given")

    @property
    def email_ids(self) -> Sequence[int] | None:
        """The ids, each once and in order; None if the filter names none."""
        return None if self.ids is None else sorted({int(number) for number in self.ids.split(",")})

    @field_validator("ticket", "sender", "error_code", "sync_error_code", "host", "q")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        return _storable(value)

    @field_validator("dismissed", mode="before")
    @classmethod
    def _said(cls, value: object) -> object:
        if type(value) in {int, float}:  # pydantic would take 0 and 1
            raise ValueError("is a number; write true or false")
        return value


class StoredFilter(BaseModel):
    """A filter of facts that last, as it is on record: it selects the same e-mails tomorrow, and those that come.

    Earlier versions kept blanks, which are ignored, and refused nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticket: Text | None = Field(
        None, max_length=MOST_TICKET, description="The ticket's number, as in the webhook"
    )
    sender: Text | None = Field(
        None, max_length=MOST_SENDER, description="The sender's address; case does not matter"
    )
    received_after: Time | None = Field(None, description="At this time or later; UTC where no zone is given")
    received_before: Time | None = Field(None, description="Before this time; UTC where no zone is given")

    @property
    def selection(self) -> Selection:
        """Return the same filter as lists and bulk retries use it."""
        return Selection.model_validate(self.model_dump(exclude_none=True))

    @field_validator("ticket", "sender", mode="before")
    @classmethod
    def _trimmed(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value

    @field_validator("ticket", "sender")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        return _storable(value)


class LastingFilter(StoredFilter):
    """A filter of a new hold or rule: what can match no e-mail is refused, for it would be in force and protect nothing."""

    ticket: TicketNumber | None = Field(None, description="The ticket's number, as in the webhook")
    sender: SenderAddress | None = Field(None, description="The sender's address alone; case does not matter")
    received_before: Time | None = Field(
        None, description="Before this time, and later than `received_after`; UTC where no zone is given"
    )

    @field_validator("ticket")
    @classmethod
    def _number(cls, value: str | None) -> str | None:
        return None if value is None else ticket_number(value)

    @field_validator("sender")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return None if value is None else sender_address(value)

    @field_validator("received_before")
    @classmethod
    def _later(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        after = info.data.get("received_after")
        if value and after and value <= after:
            raise ValueError("is not later than received_after: no time is between them")
        return value


def read_filter(stored: object) -> StoredFilter:
    """Read a filter on record; only a LastingFilter would be accepted now. Raises ValidationError for a newer version's."""
    wanted = StoredFilter.model_validate(stored)
    try:
        return LastingFilter.model_validate(wanted.model_dump())
    except ValidationError:
        return wanted


class WebhookSelection(BaseModel):
    """A filter of webhooks in quarantine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replayed: bool = Field(False, description="Replayed webhooks instead of waiting ones")
    dismissed: bool = Field(False, description="Dismissed webhooks instead of waiting ones")
    error_code: Text | None = Field(None, max_length=100, description="Code of the reason")
    received_after: Time | None = Field(None, description="At this time or later; UTC where no zone is given")
    received_before: Time | None = Field(None, description="Before this time; UTC where no zone is given")

    @field_validator("error_code")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        return _storable(value)


def cleaned_reason(reason: str | None) -> str:
    """Return a reason as one line without control characters; raises Rejected if it is empty (409) or too long (422)."""
    line = one_line(reason or "")
    if not line:
        raise Rejected(409, "reason_missing", "Give a reason: others will read it.")
    if len(line) > MOST_REASON:
        raise Rejected(422, "reason_too_long", f"A reason may have {MOST_REASON} characters.")
    return line


def _storable(value: str | None) -> str | None:
    try:
        if value is not None and "\0" in value.encode().decode():
            raise ValueError("contains a character that Postgres cannot search for")
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    return value
