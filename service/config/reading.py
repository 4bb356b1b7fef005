"""Read settings from the environment or a file; an error names the setting and never shows a value."""

import os
import stat
from io import StringIO
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.config.settings import Settings
from service.errors import SettingsError

# The settings that web and workers require.
NEEDED = ("database_url", "redis_url", "storage_url")
NOT_SET = "is not set"
_MOST_BYTES = 1024**2


def read_settings(*needed: str) -> Settings:
    """Read the environment; `needed` names the fields that this process requires.

    Raises SettingsError, with one line for each wrong or missing setting.
    """
    try:
        settings = Settings()
    except ValidationError as exc:
        errors = exc.errors(include_input=False, include_url=False)
        raise SettingsError(*(_describe(error) for error in errors)) from None
    _require(settings, *needed)
    return settings


def read_web_settings() -> Settings:
    """Read the settings of web: without credentials for Zendesk, it cannot fetch the webhook's signing secret."""
    settings = read_settings()
    has_credentials = (
        settings.zendesk_oauth_client_id or settings.zendesk_oauth_token or settings.zendesk_api_token
    )
    _require(settings, *NEEDED, *(() if has_credentials else ("zendesk_webhook_secrets",)))
    return settings


def setting_error(field: str, reason: str) -> str:
    """Describe in one line a wrong setting and a right one, without the value."""
    about = Settings.model_fields[field]
    default = ",".join(about.default) if isinstance(about.default, tuple) else about.default
    example = (about.examples or [default])[0]
    colon = "" if reason.startswith(NOT_SET) else ":"
    return f"{field.upper()}{colon} {reason} ({about.description}; for example {field.upper()}={example})"


def read_env_file(path: Path) -> dict[str, str]:
    """Read lines of NAME=value; return nothing if there is no such file.

    Raises SettingsError, with one line that says what to do.
    """
    from dotenv.parser import parse_stream  # noqa: PLC0415 most processes read no file

    bindings = list(parse_stream(StringIO(_read_text(path))))
    for binding in bindings:
        if binding.error:
            raise _broken_file(path, f"line {binding.original.line} is not NAME=value")
    return {each.key: each.value for each in bindings if each.key and each.value is not None}


def _require(settings: Settings, *needed: str) -> None:
    if missing := [setting_error(field, NOT_SET) for field in needed if not getattr(settings, field)]:
        raise SettingsError(*missing)


def _describe(error: ErrorDetails) -> str:
    reason = error["msg"].removeprefix("Value error, ")
    field = str(error["loc"][0]) if error["loc"] else reason.partition(":")[0]
    return setting_error(field, reason.removeprefix(f"{field}: "))


def _read_text(path: Path) -> str:
    try:
        # Non-blocking, because opening a pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise _broken_file(path, f"cannot be read ({exc.strerror})") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _broken_file(path, "is not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(_MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MOST_BYTES or b"\0" in content:
        raise _broken_file(path, "is not a file of settings")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _broken_file(path, "is not text in UTF-8") from None


def _broken_file(path: Path, reason: str) -> SettingsError:
    return SettingsError(f"{path}: {reason}: correct it, or remove it; `holdfast up` makes a new one")
