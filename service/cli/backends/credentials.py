"""Logins on this machine, in a file of the user that others cannot read; the newest is used."""

import json
import os
import stat
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import click

from service.cli.backends.exchange import Server
from service.cli.writing import opened_directory, reported, whole_file
from service.errors import SettingsError

FILE = "logins.json"
_MOST_BYTES = 1024**2


@dataclass(frozen=True)
class Saved:
    """A login at a server."""

    url: str
    token: str = field(repr=False)
    ends_at: str  # as the server writes times


def path() -> Path:
    """Return the path of the file: in XDG_CONFIG_HOME, or where the system keeps settings of programs."""
    return Path(click.get_app_dir("holdfast")) / FILE


def load() -> list[Saved]:
    """Return the logins, the newest first; raises SettingsError if the file is not this user's alone, or damaged."""
    file = path()
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise SettingsError(f"{file} cannot be read: {exc.strerror}.") from None
    with os.fdopen(descriptor, "rb") as opened:
        about = os.fstat(descriptor)
        if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
            raise SettingsError(f"{file} is open to others: run `chmod 600 {file}`, or sign in again.")
        content = opened.read(_MOST_BYTES)
    try:
        return [Saved(**each) for each in json.loads(content)]
    except (ValueError, TypeError, RecursionError):
        raise SettingsError(f"{file} is damaged: remove it, and sign in again.") from None


def save(login: Saved) -> None:
    """Save a login; it replaces an older one at the same server, and is used from now on."""
    _write([login, *(each for each in load() if each.url != login.url)])


def forget(url: str) -> None:
    _write([each for each in load() if each.url != url])


def server_at(address: str | None) -> Server | None:
    """Return the server with the token of its login; without an address that of the newest login, if there is one.

    Raises SettingsError if nobody is signed in at that address, or no longer.
    """
    url = None if address is None else normal(address)
    found = next((each for each in load() if url in {None, each.url}), None)
    if found is None:
        if url is None:
            return None
        raise SettingsError(f"Not signed in at {url}: run `holdfast login {url}`.")
    if datetime.fromisoformat(found.ends_at) <= datetime.now(UTC):
        raise SettingsError(f"The login at {found.url} has ended: run `holdfast login {found.url}`.")
    return Server(found.url, found.token)


def normal(address: str) -> str:
    """Return the address of a server as it is saved; raises SettingsError if a token must not be sent there."""
    text = address if "://" in address else f"https://{address}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, parts, port = None, urlsplit(""), None
    if not host or parts.scheme not in {"https", "http"} or parts.username or parts.query or parts.fragment:
        raise SettingsError("That is no address of a server: write it as https://HOST.")
    if parts.scheme == "http" and not _is_loopback(host):
        raise SettingsError(f"http:// would send the token readable to all: write https://{host}.")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _write(logins: list[Saved]) -> None:
    file = path()
    with reported(file):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with opened_directory(file.parent) as directory, whole_file(directory, file.name) as opened:
            opened.write(json.dumps([asdict(each) for each in logins], indent=2).encode())
