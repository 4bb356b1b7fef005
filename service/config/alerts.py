"""The settings of alerts: channels and thresholds."""

import re
from datetime import timedelta
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode
from yarl import URL

from service.config.validators import signing_secret

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
# The path prefix is written into pages, redirects and the path of a cookie.
_PATH = re.compile(r"(/[A-Za-z0-9_~%-][A-Za-z0-9_.~%-]*)*/?")
# The first segments of the web server's paths.
PATHS = frozenset(
    [
        "activity",
        "alerts",
        "complete",
        "api",
        "docs",
        "emails",
        "erasures",
        "failures",
        "filters",
        "healthz",
        "holds",
        "live",
        "login",
        "logins",
        "metrics",
        "openapi.json",
        "quarantine",
        "readyz",
        "receipts",
        "reconciliations",
        "retention",
        "retries",
        "sign-in",
        "sign-out",
        "static",
        "webhooks",
        "zone",
    ]
)


class AlertSettings(BaseSettings):
    """Settings of alerts; a channel is on if its address is set, and alerts are recorded without any."""

    public_url: str | None = Field(
        None,
        description="address of this service, for links; its path is the path prefix",
        examples=["https://holdfast.acme.example"],
    )
    alert_email_to: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="recipients of alerts by mail, comma separated", examples=["ops@acme.example"]
    )
    alert_email_from: str | None = Field(
        None, description="sender of alerts by mail", examples=["holdfast@acme.example"]
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="mail server: smtp:// with STARTTLS, or smtps://",
        examples=["smtp://user:password@host:587"],
    )
    alert_slack_url: SecretStr | None = Field(
        None,
        description="incoming webhook of Slack, or a compatible one",
        examples=["https://hooks.slack.com/services/T0/B0/secret"],
    )
    alert_webhook_url: SecretStr | None = Field(
        None,
        description="address for signed webhooks of alerts",
        examples=["https://alerts.acme.example/holdfast"],
    )
    alert_webhook_secret: SecretStr | None = Field(
        None,
        description="signing secret of these webhooks: whsec_ and 24 to 64 bytes in base64",
        examples=["whsec_…"],
    )
    alert_waiting_seconds: float = Field(
        300,
        gt=0,
        description="longest wait of an e-mail for a worker, or of a finished one for its sync",
    )
    alert_silence_seconds: float | None = Field(
        None,
        gt=0,
        description="longest time without a webhook; default: learned from the usual traffic",
        examples=["3600"],
    )
    alert_signature_failures: int = Field(5, ge=1, description="wrong signatures in a row that open an alert")

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
        # The scheme is checked with all other URLs.
        is_odd = text is not None and not (text.isascii() and text.isprintable())
        if is_odd or (text and "://" in text and not urlsplit(text).hostname):
            raise ValueError("names no host, or has a character that is not allowed in a URL")
        return value

    @field_validator("public_url")
    @classmethod
    def _has_a_path_of_its_own(cls, value: str | None) -> str | None:
        parts = urlsplit(value if value and "://" in value else "")  # without a scheme, another check fails
        if parts.query or parts.fragment or not _PATH.fullmatch(parts.path):
            raise ValueError("must end with a plain path: letters, digits, - _ . ~ and %, without // and ?")
        first = parts.path.split("/")[1:2]
        if PATHS.intersection(first):  # else a stripped prefix could not be told from a path of ours
            raise ValueError(f"its path may not begin with /{first[0]}, which is a path of Holdfast itself")
        return value

    @field_validator("alert_webhook_secret")
    @classmethod
    def _can_be_decoded(cls, value: SecretStr | None) -> SecretStr | None:
        return signing_secret(value)

    @model_validator(mode="after")
    def _channels_are_whole(self) -> Self:
        if self.alert_email_to and not self.smtp_url:
            raise ValueError("smtp_url: is not set, but ALERT_EMAIL_TO needs it")
        if self.alert_email_to and not self.alert_email_from:
            raise ValueError("alert_email_from: is not set, but ALERT_EMAIL_TO needs it")
        if self.alert_webhook_url and not self.alert_webhook_secret:
            raise ValueError("alert_webhook_secret: is not set, but ALERT_WEBHOOK_URL needs it")
        return self

    @property
    def path_prefix(self) -> str:
        """The prefix of all our paths in a browser, percent-encoded; usually ""."""
        return URL(self.public_url or "").raw_path.rstrip("/")

    @property
    def late_after(self) -> timedelta:
        """The wait of an e-mail from which the verdict is late."""
        return timedelta(seconds=self.alert_waiting_seconds)
