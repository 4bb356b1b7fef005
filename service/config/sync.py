"""The settings of the sync: where finished e-mails are carried to, and how hard it is tried."""

import re
from datetime import timedelta
from string import whitespace
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from service.config.secret import can_sign

# Hosts of one MongoDB address are divided by commas, too; what begins another address has a scheme.
_BETWEEN = re.compile(r"[,\s]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
# Another address, which would be a part of the first one; only what follows a ? may hold one.
_WITHIN = re.compile(r"[^?]+?://[^?]*://|.+mongodb(\+srv)?://", re.DOTALL)
_MONGODB = re.compile(r"mongodb(\+srv)?://[^/?#]+/[^/?#.\s]+\.[^/?#\s]+(\?\S*)?")
_WEBHOOK = re.compile(r"https?://[^/?#\s]+(?:[/?#]\S*)?")


class SyncSettings(BaseSettings):
    """The sync is on when it has an address."""

    sync_url: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="where finished e-mails are carried to: a collection of MongoDB's, an https address, or both",
        examples=["mongodb://user:password@host/database.collection"],
    )
    sync_webhook_secret: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="what webhooks of the sync are signed with: whsec_ and 24 to 64 bytes in base64;"
        " several, comma separated, during a rotation",
        examples=["whsec_…"],
    )
    sync_links: Literal["api", "presigned"] = Field(
        "api", description="how files are linked to: permanently to our API, or presigned by the storage"
    )
    sync_max_retries: int = Field(
        500, ge=0, description="attempts of a sync that may be given back before it fails"
    )
    sync_retry_min_seconds: float = Field(
        5, gt=0, description="pause before the first retry of a sync; doubles with each"
    )
    sync_retry_max_seconds: float = Field(600, gt=0, description="longest pause before a retry of a sync")
    sync_seconds: float = Field(20, gt=0, description="longest that a target may take to answer")
    reconcile_hours: int = Field(
        24,
        ge=0,
        le=24 * 366,
        description="how far back the hourly reconciliation looks; 0 turns it off",
    )
    syncs_per_process: int = Field(16, ge=1, description="syncs at once in one worker process")

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
                raise ValueError("is not a URL; in a password, write / ? # @ : % as %2F %3F %23 %40 %3A %25")
            if text.startswith("mongodb") and not _MONGODB.fullmatch(text):
                raise ValueError("a MongoDB address must name mongodb://host/database.collection")
            if not _MONGODB.fullmatch(text) and not _is_web_address(text):
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
            can_sign(secret)
        return value

    @model_validator(mode="after")
    def _sync_is_whole(self) -> Self:
        has_webhook = any(url.get_secret_value().startswith("http") for url in self.sync_url)
        if has_webhook and not self.sync_webhook_secret:
            raise ValueError("sync_webhook_secret: missing, SYNC_URL needs it to sign with")
        return self

    @property
    def sync_status(self) -> Literal["pending", "not_applicable"]:
        """The state of a sync that nothing was done for yet."""
        return "pending" if self.sync_url else "not_applicable"

    @property
    def sync_lease(self) -> timedelta:
        """How long an attempt may take with all targets, and some time for what is around it."""
        return timedelta(seconds=self.sync_seconds * max(1, len(self.sync_url)) + 10)


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(_WEBHOOK.fullmatch(text) and parts.hostname) and parts.port != 0
    except ValueError:  # the port is none
        return False
