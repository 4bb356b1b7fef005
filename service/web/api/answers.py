"""The shapes of answers that are no view of what is on record, and of what Zendesk sends."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from service.queries.views import View


class Problem(BaseModel):
    """What every error looks like (RFC 9457); some have further fields."""

    model_config = ConfigDict(extra="allow")

    type: Literal["about:blank"]
    title: str
    status: int
    code: str = Field(pattern="^[a-z_]+$", description="a word that never changes, to tell errors apart by")
    detail: str = Field(description="what is wrong, for a person")


class Queued(View):
    """The e-mail is to be run again."""

    status: Literal["queued"] = "queued"
    email_id: int


class SyncPending(View):
    """The e-mail is to be synced."""

    sync_status: Literal["pending"] = "pending"
    email_id: int


class Replayed(View):
    """The e-mail that the request became, or already was."""

    status: Literal["accepted", "duplicate"]
    email_id: int | None


class Invocation(RootModel[Mapping[str, object]]):
    """What the trigger's template makes, or an event of Zendesk's; `ticket_id` is the least of a template's."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ticket_id": "35436", "comment_id": "4711"}]})


class Receipt(BaseModel):
    """What became of the request, which is committed."""

    status: Literal["accepted", "duplicate", "ignored", "quarantined"]
    email_id: int | None = Field(None, description="if it was accepted, or a duplicate")
    quarantine_id: int | None = Field(None, description="if it was quarantined")


class Health(View):
    """The process is alive, and of which version it is."""

    status: Literal["ok"] = "ok"
    version: str
    commit: str = Field(description="the first 12 digits of the commit, or `unknown`")


class Probe(BaseModel):
    """Whether something that we depend on is there."""

    ok: bool
    milliseconds: float | None = Field(None, description="if it is there")
    error: str | None = Field(None, description="if it is not")
    detail: str | None = Field(None, description="what to do, where Postgres refuses connections")


class Readiness(View):
    """The process can work, or what is missing; of targets it says whether they answer, and can work without them."""

    status: Literal["ready", "not_ready"]
    checks: Mapping[Literal["database", "redis", "storage", "mongodb"], Probe]
