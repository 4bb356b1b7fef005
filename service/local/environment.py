"""The settings of a local Holdfast: the user's own, else generated; saved in a file for other commands and the next run."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from service.config.reading import read_env_file
from service.config.settings import Settings
from service.storage.vendors import PREFIXES

_GENERATED = ("API_TOKEN", "ZENDESK_WEBHOOK_SECRETS")
_ACCOUNT = ("ZENDESK_SUBDOMAIN", "ZENDESK_URL")


def names() -> set[str]:
    """Return the names of all settings."""
    return {field.upper() for field in Settings.model_fields}


def choose(data_dir: Path, own: Mapping[str, str], servers: Mapping[str, str], port: int) -> dict[str, str]:
    """Return the settings of the processes to start: those in the user's environment (`own`), then those of our servers.

    The token and the secret are generated once and read from the file afterwards.
    """
    saved = read_env_file(data_dir / "env")
    generated = {name: saved.get(name) or secrets.token_urlsafe(24) for name in _GENERATED}
    defaults = {
        **servers,
        **generated,
        "STORAGE_URL": f"file://{data_dir / 'objects'}",
        "LOG_FORMAT": "console",
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        # Without a Zendesk account, attachments come from this machine.
        **({} if any(own.get(name) for name in _ACCOUNT) else _LOOPBACK),
    }
    chosen = {
        name: value for name, value in own.items() if (name in names() or _opens_bucket(name)) and value
    }
    return {**defaults, **chosen, "HOST": "127.0.0.1", "PORT": str(port)}


def _opens_bucket(name: str) -> bool:
    """Say whether a variable holds credentials or options of a bucket; commands in another terminal need them, too."""
    return name.startswith(PREFIXES)


_LOOPBACK = {
    "DOWNLOAD_HOSTS": "*.zdusercontent.com,127.0.0.1",
    "DOWNLOAD_PRIVATE_NETWORKS": "true",
}


def write(path: Path, values: Mapping[str, str]) -> None:
    """Replace the file in one step, readable by its owner only: it holds secrets."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("# Written by holdfast: the settings of its local processes.\n")
        file.writelines(f"{name}={_quote(value)}\n" for name, value in sorted(values.items()))
    new.replace(path)


def _quote(value: str) -> str:
    if re.fullmatch(r"[\w@%+=:,./?&*~-]+", value, re.ASCII):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
