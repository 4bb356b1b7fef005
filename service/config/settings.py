"""All settings, and the validation of their values."""

import os
import re
import socket
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from service.config.alerts import AlertSettings
from service.config.sync import SyncSettings
from service.config.telemetry import TelemetrySettings
from service.config.validators import SHORTEST_SECRET, check_url, credential, strong_secret

# Zendesk signs the "test webhook" of a webhook that does not exist yet with this published secret:
# https://developer.zendesk.com/documentation/webhooks/verifying/
PUBLIC_TEST_SECRET = "dGhpc19zZWNyZXRfaXNfZm9yX3Rlc3Rpbmdfb25seQ=="  # noqa: S105

STORAGE_SCHEMES = ("file", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl")
_SCHEMES = {
    "database_url": ("postgres", "postgresql", "postgresql+asyncpg"),
    "redis_url": ("redis", "rediss", "unix"),
    "storage_url": STORAGE_SCHEMES,
    **dict.fromkeys(
        ("zendesk_url", "public_url", "alert_slack_url", "alert_webhook_url", "timestamp_url"),
        ("https", "http"),
    ),
    "smtp_url": ("smtp", "smtps"),
}
_SEED = re.compile(r"[0-9a-fA-F]{64}")
_WRONG_SESSION = re.compile(
    r"[?&]target_session_attrs=(?!(any|primary|standby|read-write|read-only|prefer-standby)(&|$))"
)
_WRONG_SSLMODE = re.compile(r"[?&]sslmode=(?!(disable|allow|prefer|require|verify-ca|verify-full)(&|$))")

_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:\d{1,5})?", re.ASCII)

Strings = Annotated[tuple[str, ...], NoDecode]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode]


class Settings(AlertSettings, TelemetrySettings, SyncSettings):
    """All settings; their descriptions are part of error messages."""

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    database_url: SecretStr | None = Field(
        None, description="Postgres", examples=["postgres://user:password@host:5432/name"]
    )
    redis_url: SecretStr | None = Field(None, description="Redis or Valkey", examples=["redis://host:6379/0"])
    redis_verify_tls: bool = Field(
        True, description="check the certificate of a rediss:// server; Heroku's are self-signed"
    )
    storage_url: str | None = Field(
        None, description="storage of attachments", examples=["s3://bucket/prefix"]
    )
    storage_sign_seconds: int = Field(
        300,
        ge=0,
        le=7 * 86400,  # S3 and GCS sign for no longer
        description="validity of the API's redirects to files in the storage; 0: the API sends the files itself",
    )
    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104 a dyno's router needs it
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    web_concurrency: int = Field(1, ge=1, le=100, description="web processes that share the port")

    zendesk_subdomain: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="the account, as in SUBDOMAIN.zendesk.com",
        examples=["acme"],
    )
    zendesk_url: str | None = Field(
        None,
        description="the account's address, if it is not https://SUBDOMAIN.zendesk.com",
        examples=["https://acme.zendesk.com"],
    )
    zendesk_hosts: Strings = Field(
        (),
        description="further hosts of the same account, such as those of its brands; they get the credentials too",
        examples=["help.acme.example"],
    )
    zendesk_oauth_client_id: str | None = Field(
        None,
        description="OAuth client that reads attachments and comments: its identifier",
        examples=["holdfast"],
    )
    zendesk_oauth_client_secret: SecretStr | None = Field(
        None, description="secret of the OAuth client", examples=["secret"]
    )
    zendesk_oauth_token: SecretStr | None = Field(
        None,
        description="a fixed OAuth access token, instead of a client; nothing renews it",
        examples=["token"],
    )
    zendesk_email: str | None = Field(
        None,
        description="the agent of the API token; API tokens end on 30 April 2027",
        examples=["agent@acme.example"],
    )
    zendesk_api_token: SecretStr | None = Field(
        None,
        description="API token, instead of a client; all API tokens end on 30 April 2027",
        examples=["token"],
    )
    zendesk_calls_percent: int = Field(
        40,
        ge=1,
        le=100,
        description="share of the account's API rate limit that all workers together may use, in percent",
    )
    backfill_minutes: int = Field(
        5,
        ge=0,
        le=1440,
        description="pause between two searches of the account for e-mails that no webhook announced; 0 for none",
    )
    zendesk_deletions: Literal["ask", "erase", "hold"] = Field(
        "ask",
        description="what follows when Zendesk deletes an e-mail: `ask` leaves it to a person, `erase` erases it here, too,"
        " `hold` keeps it from being deleted here",
    )
    retention_floor_days: int = Field(
        30,
        ge=0,
        le=36_500,
        description="no retention rule deletes an e-mail earlier, in days after the end of its job",
    )
    purge_per_second: int = Field(
        200,
        ge=1,
        le=100_000,
        description="most e-mails that retention rules delete in a second; more load Postgres more",
    )
    zendesk_webhook_secrets: Secrets = Field(
        (),
        description="the webhook's signing secret, which is fetched with credentials; several, comma separated, during a rotation",
        examples=["the signing secret that Zendesk shows"],
    )
    webhook_tolerance_seconds: int = Field(
        3600,
        ge=1,
        description="difference between a signature's time and ours from which a webhook is marked as late",
    )
    max_webhook_bytes: int = Field(1024**2, ge=1, description="largest webhook body")

    api_token: SecretStr | None = Field(
        None,
        description="token of operators, for /api and the pages; both are closed without one",
        examples=["what openssl rand -hex 32 prints"],
    )
    api_read_token: SecretStr | None = Field(
        None,
        description="read-only token",
        examples=["what openssl rand -hex 32 prints"],
    )

    evidence_key: Secrets = Field(
        (),
        description="key that signs heads of the evidence log; several, comma separated: the first signs, all verify",
        examples=["what openssl rand -hex 32 prints"],
    )
    evidence_verify_hours: int = Field(
        24,
        ge=0,
        le=24 * 366,
        description="pause between two verifications of the evidence log by a worker; 0 for none",
    )
    timestamp_url: str | None = Field(
        None,
        description="a time stamp authority (RFC 3161) that stamps heads of the evidence log",
        examples=["https://tsa.example/"],
    )

    download_hosts: Strings = Field(
        ("*.zdusercontent.com",),
        min_length=1,
        description="allowed hosts of files, beside the account's own",
    )
    download_private_networks: bool = Field(
        False, description="allow private addresses and plain http: for tests, never in production"
    )
    max_attachment_bytes: int = Field(50 * 1024**2, ge=1, description="largest attachment")
    download_seconds: float = Field(240, gt=0, description="longest download of one file")
    download_stall_seconds: float = Field(20, gt=0, description="longest pause within a download")
    downloads_per_process: int = Field(
        64, ge=1, description="downloads at the same time in one worker process"
    )
    downloads_per_host: int = Field(
        64, ge=1, description="downloads at the same time from one host in one worker process"
    )

    early_seconds: float = Field(
        900,
        ge=0,
        description="time after a webhook in which an answer such as 404 or 403 may only be too early",
    )
    max_retries: int = Field(5, ge=0, description="retries before an e-mail fails")
    retry_min_seconds: float = Field(
        15, gt=0, description="pause before the first retry; doubles with each retry"
    )
    retry_max_seconds: float = Field(
        300, gt=0, description="longest pause before a retry, also for Retry-After"
    )
    attempt_seconds: float = Field(900, gt=0, description="longest attempt")
    lease_seconds: float = Field(30, ge=1, description="time for which a silent worker keeps its jobs")
    sweep_seconds: float = Field(1, gt=0, description="pause between two sweeps")
    jobs_per_process: int = Field(200, ge=1, description="jobs at the same time in one worker process")
    shutdown_seconds: float = Field(10, ge=1, le=15, description="time for jobs to finish after SIGTERM")
    worker_name: str = Field(
        default_factory=socket.gethostname,
        description="name of this worker, unique on its host",
        examples=["worker.1"],
    )

    database_pool_size: int = Field(
        4, ge=1, description="largest number of connections to Postgres of one process"
    )
    database_seconds: float = Field(5, gt=0, description="longest wait of a request for Postgres")
    redis_pool_size: int = Field(3, ge=2, description="largest number of connections to Redis of one pool")
    fault_points: Path | None = Field(
        None, description="directory through which a drill kills processes; never in production"
    )
    release_tolerates: Strings = Field(
        (),
        description="outages that `holdfast release` tolerates: storage, sync, or both, comma separated",
        examples=["sync"],
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="json for machines, console for people"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least level to log")

    @field_validator(
        "zendesk_webhook_secrets",
        "zendesk_hosts",
        "download_hosts",
        "release_tolerates",
        "evidence_key",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if info.field_name == "zendesk_webhook_secrets" and not parts:
            raise ValueError("is not set: there are only spaces or commas")
        return parts

    @field_validator("evidence_key")
    @classmethod
    def _are_seeds(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(_SEED.fullmatch(each.get_secret_value()) for each in value):
            raise ValueError("must be 64 hexadecimal digits, as `openssl rand -hex 32` prints")
        return value

    @field_validator("zendesk_oauth_client_id", "zendesk_email")
    @classmethod
    def _is_a_user(cls, value: str | None) -> str | None:
        return None if value is None else credential(value)

    @field_validator("zendesk_oauth_client_secret", "zendesk_oauth_token", "zendesk_api_token")
    @classmethod
    def _is_a_credential(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(credential(value.get_secret_value()))

    @field_validator("api_token", "api_read_token")
    @classmethod
    def _is_no_guess(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else strong_secret(value)

    @field_validator(*_SCHEMES)
    @classmethod
    def _check_url(cls, value: SecretStr | str | None, info: ValidationInfo) -> SecretStr | str | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        schemes = tuple(f"{scheme}://" for scheme in _SCHEMES[info.field_name or ""])
        if text is None:
            return value
        check_url(text, schemes)
        if _WRONG_SSLMODE.search(text):
            raise ValueError("sslmode must be disable, allow, prefer, require, verify-ca or verify-full")
        if _WRONG_SESSION.search(text):
            raise ValueError(
                "target_session_attrs must be any, primary, standby, read-write, read-only or prefer-standby"
            )
        return value

    @field_validator("storage_url")
    @classmethod
    def _refuse_query(cls, value: str | None) -> str | None:
        if value and re.search("[?#]", value):
            raise ValueError("must have neither ? nor #: the rest would be ignored")
        return value

    @field_validator("storage_url")
    @classmethod
    def _refuse_disk_of_dyno(cls, value: str | None) -> str | None:
        if value and value.startswith("file:"):
            if os.environ.get("DYNO"):
                raise ValueError("a dyno's disk is lost daily, use s3://, gs:// or az://")
            if not value.startswith("file:///"):
                raise ValueError("must be an absolute path, file:///path")
        return value

    @field_validator("release_tolerates")
    @classmethod
    def _can_be_tolerated(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not {*value} <= {"storage", "sync"}:
            raise ValueError("may name only storage and sync")
        return value

    @field_validator("zendesk_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(_HOST.fullmatch, value)):
            raise ValueError("must be names of hosts, without https:// and without patterns")
        return value

    @field_validator("zendesk_webhook_secrets")
    @classmethod
    def _refuse_the_public_secret(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(secret.get_secret_value() == PUBLIC_TEST_SECRET for secret in value):
            raise ValueError("contains Zendesk's public test secret: anybody could sign with it")
        return value

    @field_validator("zendesk_webhook_secrets")
    @classmethod
    def _are_no_guesses(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        try:
            return tuple(map(strong_secret, value))
        except ValueError:
            reason = f"has one with fewer than {SHORTEST_SECRET} characters; copy it again from the webhook in Zendesk"
            raise ValueError(reason) from None

    # Declared last, so that it runs before the other validators of mode "before".
    @field_validator("*", mode="before")
    @classmethod
    def _refuse_broken_text(cls, value: object) -> object:
        """Refuse a value that libraries and sockets would break on with a traceback."""
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("is not text in UTF-8") from None
        return value

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> "Settings":
        if self.zendesk_email and not self.zendesk_api_token:
            raise ValueError("zendesk_api_token: is not set, but ZENDESK_EMAIL needs it")
        if self.zendesk_api_token and not self.zendesk_email:
            raise ValueError("zendesk_email: is not set, but ZENDESK_API_TOKEN needs it")
        if self.zendesk_oauth_client_id and not self.zendesk_oauth_client_secret:
            raise ValueError("zendesk_oauth_client_secret: is not set, but ZENDESK_OAUTH_CLIENT_ID needs it")
        if self.zendesk_oauth_client_secret and not self.zendesk_oauth_client_id:
            raise ValueError("zendesk_oauth_client_id: is not set, but ZENDESK_OAUTH_CLIENT_SECRET needs it")
        credentials = (self.zendesk_oauth_client_id, self.zendesk_oauth_token, self.zendesk_api_token)
        if any(credentials) and not self.account_url:
            raise ValueError("zendesk_subdomain: is not set, but the credentials need it")
        if self.api_token and self.api_token == self.api_read_token:
            raise ValueError("api_read_token: is the same as API_TOKEN, so it would not be read-only")
        return self

    @property
    def account_url(self) -> str | None:
        """The account's address; `service.zendesk.account` decides which hosts get the credentials."""
        if self.zendesk_url:
            return self.zendesk_url.rstrip("/")
        return f"https://{self.zendesk_subdomain}.zendesk.com" if self.zendesk_subdomain else None

    @property
    def redis_dsn(self) -> str:
        """REDIS_URL for redis-py; "" if it is not set."""
        url = self.redis_url.get_secret_value() if self.redis_url else ""
        if not url.startswith("rediss:"):
            return url
        # By default redis-py verifies the certificate, but not its host name.
        tls = "ssl_check_hostname=true" if self.redis_verify_tls else "ssl_cert_reqs=none"
        return f"{url}{'&' if '?' in url else '?'}{tls}"

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)
