"""The settings of the sync: targets, retries and limits."""

import re
from datetime import timedelta
from string import whitespace
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from service.config.validators import NOT_A_URL, is_web_url, signing_secret

# A comma also separates hosts of one MongoDB address, so another address begins only at a scheme.
_BETWEEN = re.compile(r"[,\s]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
# An address inside another one is a mistake, unless it is part of the query.
_WITHIN = re.compile(r"[^?]+?://[^?]*://|.+mongodb(\+srv)?://", re.DOTALL)
_MONGODB = re.compile(r"mongodb(\+srv)?://[^/?#]+/[^/?#.\s]+\.[^/?#\s]+(\?\S*)?")


class SyncSettings(BaseSettings):
    """Settings of the sync. The sync is on if SYNC_URL is set."""

    sync_url: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="targets of finished e-mails: a collection of MongoDB, an https address, or both",
        examples=["mongodb://user:password@host/database.collection"],
    )
    sync_webhook_secret: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="signing secret of the sync's webhooks: whsec_ and 24 to 64 bytes in base64;"
        " several, comma separated, during a rotation",
        examples=["whsec_…"],
    )
    sync_links: Literal["api", "presigned"] = Field(
        "api", description="links to files: permanent ones to our API, or presigned by the storage"
    )
    sync_max_retries: int = Field(500, ge=0, description="retries of a sync before it fails")
    sync_retry_min_seconds: float = Field(
        5, gt=0, description="pause before the first retry of a sync; doubles with each retry"
    )
    sync_retry_max_seconds: float = Field(600, gt=0, description="longest pause before a retry of a sync")
    sync_seconds: float = Field(20, gt=0, description="longest wait for a target's answer")
    reconcile_hours: int = Field(
        24,
        ge=0,
        le=24 * 366,
        description="hours that the hourly reconciliation covers; 0 turns it off",
    )
    syncs_per_process: int = Field(16, ge=1, description="syncs at the same time in one worker process")

    @field_validator("sync_url", mode="before")
    @classmethod
    def _split_targets(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [part for part in _BETWEEN.split(value.strip(f",{whitespace}")) if part]

    @field_validator("sync_url")
    @classmethod
    def _check_targets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for address in value:
            text = address.get_secret_value()
            if _WITHIN.match(text):
                raise ValueError("holds a second address: put a comma before it, or write its : as %3A")
            if text.partition("://")[2].split("/")[0].count("@") > 1:
                raise ValueError(NOT_A_URL)
            if text.startswith("mongodb") and not _MONGODB.fullmatch(text):
                raise ValueError("a MongoDB address must name mongodb://host/database.collection")
            if not _MONGODB.fullmatch(text) and not is_web_url(text):
                raise ValueError("must begin with mongodb://, mongodb+srv://, https:// or http://")
        if len({address.get_secret_value().partition(":")[0][:4] for address in value}) < len(value):
            raise ValueError("names two targets of one kind; there may be one collection and one endpoint")
        return value

    @field_validator("sync_webhook_secret", mode="before")
    @classmethod
    def _split_secrets(cls, value: object) -> object:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("sync_webhook_secret")
    @classmethod
    def _are_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in value:
            signing_secret(secret)
        return value

    @model_validator(mode="after")
    def _sync_is_whole(self) -> Self:
        has_webhook = any(url.get_secret_value().startswith("http") for url in self.sync_url)
        if has_webhook and not self.sync_webhook_secret:
            raise ValueError("sync_webhook_secret: is not set, but SYNC_URL needs it")
        return self

    @property
    def sync_status(self) -> Literal["pending", "not_applicable"]:
        """The first state of a sync."""
        return "pending" if self.sync_url else "not_applicable"

    @property
    def sync_lease(self) -> timedelta:
        """The lease of a sync: the longest time for all targets, and some seconds for statements."""
        return timedelta(seconds=self.sync_seconds * max(1, len(self.sync_url)) + 10)
