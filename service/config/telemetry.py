"""The settings of metrics, error reports and traces."""

import re

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

_DSN = re.compile(r"https?://[^@/\s]+@[^@/\s]+/\S*\d+")


class TelemetrySettings(BaseSettings):
    """Settings of telemetry; they change nothing else."""

    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port on which a worker serves its own /metrics", examples=["9100"]
    )
    sentry_dsn: SecretStr | None = Field(
        None,
        description="Sentry project for unexpected errors; needs the extra `sentry`",
        examples=["https://key@host/1"],
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="collector of traces, by OTLP over HTTP; needs the extra `otel`",
        examples=["http://localhost:4318"],
    )
    otel_exporter_otlp_traces_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="the same with a whole path, if that is not /v1/traces",
        examples=["http://localhost:4318/v1/traces"],
    )

    @field_validator("sentry_dsn")
    @classmethod
    def _check_dsn(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not _DSN.fullmatch(value.get_secret_value()):
            raise ValueError("is not a DSN")
        return value

    @property
    def traces_url(self) -> str | None:
        """The address for spans; None without tracing."""
        base = self.otel_exporter_otlp_endpoint
        return self.otel_exporter_otlp_traces_endpoint or (f"{base.rstrip('/')}/v1/traces" if base else None)
