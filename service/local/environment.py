"""The settings of a local Holdfast: the user's own, else made up; kept in a file for `send`, `status` and the next run."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from service.config.env_file import read_env_file
from service.config.settings import Settings
from service.storage.vendors import PREFIXES

_KEPT = ("API_TOKEN", "ZENDESK_WEBHOOK_SECRETS")
_ACCOUNT = ("ZENDESK_SUBDOMAIN", "ZENDESK_URL")


def names() -> set[str]:
    """Return the names of all settings."""
    return {field.upper() for field in Settings.model_fields}


def choose(data_dir: Path, own: Mapping[str, str], servers: Mapping[str, str], port: int) -> dict[str, str]:
    """Return the settings of the processes to start. `own`, the user's environment, wins; `servers` are ours.

    The token and the secret are made once and read from the file from then on.
    """
    kept = read_env_file(data_dir / "env")
    made = {name: kept.get(name) or secrets.token_urlsafe(24) for name in _KEPT}
    defaults = {
        **servers,
        **made,
        "STORAGE_URL": f"file://{data_dir / 'objects'}",
        "LOG_FORMAT": "console",
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        # To try it out, files come from this machine; with an account set, from where production takes them.
        **({} if any(own.get(name) for name in _ACCOUNT) else _LOOPBACK),
    }
    chosen = {name: value for name, value in own.items() if (name in names() or _is_vendors(name)) and value}
    return {**defaults, **chosen, "HOST": "127.0.0.1", "PORT": str(port)}


def _is_vendors(name: str) -> bool:
    """Tell what a bucket in STORAGE_URL is opened with: commands in another terminal need it, too."""
    return name.startswith(PREFIXES)


_LOOPBACK = {
    "DOWNLOAD_HOSTS": "*.zdusercontent.com,127.0.0.1",
    "DOWNLOAD_PRIVATE_NETWORKS": "true",
}


def write(path: Path, values: Mapping[str, str]) -> None:
    """Write the file, whole or not at all and for its owner only: it holds secrets."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("# Made by holdfast: the settings of the processes that it runs here.\n")
        file.writelines(f"{name}={_quote(value)}\n" for name, value in sorted(values.items()))
    new.replace(path)


def _quote(value: str) -> str:
    if re.fullmatch(r"[\w@%+=:,./?&*~-]+", value, re.ASCII):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
