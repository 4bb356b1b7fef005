"""The settings of alerts: what is worth one, and where they go."""

import re
from datetime import timedelta
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode
from yarl import URL

from service.config.secret import can_sign

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
# It is written into pages, redirects and the path of a cookie.
_PATH = re.compile(r"(/[A-Za-z0-9_~%-][A-Za-z0-9_.~%-]*)*/?")
# What the paths of the web server begin with.
PATHS = frozenset(
    [
        "activity",
        "api",
        "docs",
        "emails",
        "failures",
        "healthz",
        "live",
        "metrics",
        "openapi.json",
        "quarantine",
        "readyz",
        "reconciliations",
        "retries",
        "sign-in",
        "sign-out",
        "static",
        "webhooks",
    ]
)


class AlertSettings(BaseSettings):
    """Each channel is on when its address is set; what is the matter is on record without any."""

    public_url: str | None = Field(
        None,
        description="this service's own address, for links; its path is the path prefix",
        examples=["https://holdfast.acme.example"],
    )
    alert_email_to: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="who gets alerts by mail, comma separated", examples=["ops@acme.example"]
    )
    alert_email_from: str | None = Field(
        None, description="the sender of alerts by mail", examples=["holdfast@acme.example"]
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="mail server: smtp:// with STARTTLS, or smtps://",
        examples=["smtp://user:password@host:587"],
    )
    alert_slack_url: SecretStr | None = Field(
        None,
        description="incoming webhook of Slack, or of what understands the same",
        examples=["https://hooks.slack.com/services/T0/B0/secret"],
    )
    alert_webhook_url: SecretStr | None = Field(
        None, description="where signed webhooks go", examples=["https://alerts.acme.example/holdfast"]
    )
    alert_webhook_secret: SecretStr | None = Field(
        None,
        description="what they are signed with: whsec_ and 24 to 64 bytes in base64",
        examples=["whsec_…"],
    )
    alert_waiting_seconds: float = Field(
        300,
        gt=0,
        description="how long an e-mail may wait for a worker to begin, or, once finished, for its sync",
    )
    alert_silence_seconds: float | None = Field(
        None,
        gt=0,
        description="how long no webhook may come, instead of learning what is usual",
        examples=["3600"],
    )
    alert_signature_failures: int = Field(
        5, ge=1, description="wrong signatures in a row that are worth an alert"
    )

    @field_validator("alert_email_to", mode="before")
    @classmethod
    def _split_addresses(cls, value: object) -> object:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("alert_email_to", "alert_email_from")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        addresses = (value,) if isinstance(value, str) else value or ()
        if not all(map(_ADDRESS.fullmatch, addresses)):
            raise ValueError("must be plain e-mail addresses, without names")
        return value

    @field_validator("public_url", "smtp_url", "alert_slack_url", "alert_webhook_url")
    @classmethod
    def _has_a_host(cls, value: SecretStr | str | None) -> SecretStr | str | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        # Whether it begins as it should is looked at with all other URLs.
        is_odd = text is not None and not (text.isascii() and text.isprintable())
        if is_odd or (text and "://" in text and not urlsplit(text).hostname):
            raise ValueError("names no host, or holds a character that a URL does not")
        return value

    @field_validator("public_url")
    @classmethod
    def _has_a_path_of_its_own(cls, value: str | None) -> str | None:
        parts = urlsplit(value if value and "://" in value else "")  # else another check says what is missing
        if parts.query or parts.fragment or not _PATH.fullmatch(parts.path):
            raise ValueError("must end with a plain path: letters, digits, - _ . ~ and %, without // and ?")
        first = parts.path.split("/")[1:2]
        if PATHS.intersection(first):  # or nobody could tell whether a proxy stripped it
            raise ValueError(f"its path may not begin with /{first[0]}, which is a path of Holdfast itself")
        return value

    @field_validator("alert_webhook_secret")
    @classmethod
    def _can_be_decoded(cls, value: SecretStr | None) -> SecretStr | None:
        return can_sign(value)

    @model_validator(mode="after")
    def _channels_are_whole(self) -> Self:
        if self.alert_email_to and not self.smtp_url:
            raise ValueError("smtp_url: missing, ALERT_EMAIL_TO needs it")
        if self.alert_email_to and not self.alert_email_from:
            raise ValueError("alert_email_from: missing, ALERT_EMAIL_TO needs it")
        if self.alert_webhook_url and not self.alert_webhook_secret:
            raise ValueError("alert_webhook_secret: missing, ALERT_WEBHOOK_URL needs it")
        return self

    @property
    def path_prefix(self) -> str:
        """What stands before every path of ours in a browser, as it is written there; "" is the usual case."""
        return URL(self.public_url or "").raw_path.rstrip("/")

    @property
    def late_after(self) -> timedelta:
        """How long an e-mail may wait before the verdict is that something is late."""
        return timedelta(seconds=self.alert_waiting_seconds)
