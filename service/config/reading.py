"""Read the settings at a door; what is wrong with them is one line."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.config.settings import Settings
from service.errors import SettingsError

# What web and workers cannot do without.
NEEDED = ("database_url", "redis_url", "storage_url")


def read_settings(*needed: str) -> Settings:
    """Read the environment; `needed` names the fields that this process cannot do without.

    Raises SettingsError, whose one line never shows a value.
    """
    try:
        settings = Settings()
    except ValidationError as exc:
        errors = exc.errors(include_input=False, include_url=False)
        raise SettingsError(*(_tell(error) for error in errors)) from None
    if missing := [complaint(field, "missing") for field in needed if not getattr(settings, field)]:
        raise SettingsError(*missing)
    return settings


def complaint(field: str, reason: str) -> str:
    """Say in one line, without its value, what is wrong with a setting and how it should look."""
    about = Settings.model_fields[field]
    default = ",".join(about.default) if isinstance(about.default, tuple) else about.default
    example = (about.examples or [default])[0]
    return f"{field.upper()}: {reason} (it is: {about.description}; for example {field.upper()}={example})"


def _tell(error: ErrorDetails) -> str:
    reason = error["msg"].removeprefix("Value error, ")
    field = str(error["loc"][0]) if error["loc"] else reason.partition(":")[0]
    return complaint(field, reason.removeprefix(f"{field}: "))
