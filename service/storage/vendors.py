"""Storage URLs and the vendors' variables: the location that a URL names, and how a bucket is opened."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from obstore.store import from_url

from service.errors import SettingsError

_SCHEMES = {"s3a": "s3"} | dict.fromkeys(("azure", "abfs", "abfss", "adl"), "az")
PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")
# Buckets of one name at two servers are different buckets.
SERVERS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_TRUE = {"1", "true", "on", "yes", "y"}
_ADDRESS = re.compile(r"https?://([^/?#@\s]*@)?[^/?#@\s]+(/[^?#\s]*)?")


@dataclass(frozen=True)
class Location:
    server: tuple[str, ...]
    path: tuple[str, ...]


def locate(url: str) -> Location:
    """Return the location of a storage URL, under the variables that are set now; follows links on a disk; blocks."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Location((), Path(os.path.realpath(unquote(parts.path))).parts)
    vendor = _vendor_of(url)
    bucket, _, account = parts.netloc.partition("@")  # abfss://container@account.dfs.core.windows.net/…
    if vendor == "az":  # two accounts may have containers of one name
        vendor = f"az {account.partition('.')[0] or os.environ.get('AZURE_STORAGE_ACCOUNT_NAME', '')}"
    server = (os.environ.get(name, "") for name in SERVERS.get(vendor[:2], ()))
    return Location((vendor, *server), (bucket, *(part for part in parts.path.split("/") if part)))


def _vendor_of(url: str) -> str:
    """Return the vendor of a storage URL as its shortest scheme: s3, gs, az."""
    scheme = url.partition(":")[0]
    return _SCHEMES.get(scheme, scheme)


def overlap(one: Location, other: Location) -> bool:
    """Say whether two locations are the same, or one contains the other."""
    shorter = min(len(one.path), len(other.path))
    return one.server == other.server and one.path[:shorter] == other.path[:shorter]


@contextmanager
def variables(given: Mapping[str, str] | None) -> Iterator[None]:
    """Replace the vendors' variables by the given ones while a storage is opened; None changes nothing.

    A storage keeps the variables of its opening. Not for a process with other threads: they would see the
    variables too.
    """
    if given is None:
        yield
        return
    before = {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}
    try:
        _replace(before, {name: value for name, value in given.items() if name.startswith(PREFIXES)})
        yield
    finally:
        now = {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}
        _replace(now, before)


def _replace(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    for name in old:
        del os.environ[name]
    os.environ.update(new)


if TYPE_CHECKING:
    from obstore.store import ObjectStore  # exists for type checkers only


def open_store(url: str, *, request_seconds: float) -> "ObjectStore":
    """Open a store without a request; raises SettingsError, or the vendor's error, if a variable or the URL is wrong."""
    _unset_empty_variables()
    allow_http = _allows_http(_vendor_of(url))
    more: dict[str, Any] = {}
    if _vendor_of(url) == "s3" and _sends_checksums():
        more["checksum_algorithm"] = "SHA256"
    return from_url(
        url,
        client_options={
            # Client options in the call replace those of the environment, so this one is passed on.
            "allow_http": allow_http,
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=request_seconds),
            "user_agent": "holdfast",
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
        **more,
    )


def is_anonymous() -> bool:
    """Say whether requests are not signed: to sign a URL, the client would search for credentials that do not exist."""
    return _is_on("SKIP_SIGNATURE")


def _unset_empty_variables() -> None:
    """Unset empty variables, as our own settings do: the vendor's client takes them for values."""
    for name in [name for name, value in os.environ.items() if not value and name.startswith(PREFIXES)]:
        del os.environ[name]


def _allows_http(vendor: str) -> bool:
    """Say whether to do without TLS: an http:// server in a variable asks for that, as in AWS's own clients.

    Raises SettingsError for an address that would make the vendor's client panic.
    """
    allows = _is_on("ALLOW_HTTP")
    for name in SERVERS.get(vendor, ()):
        address = os.environ.get(name, "")
        if address and not _ADDRESS.fullmatch(address):
            raise SettingsError(f"{name}: must be an address that begins with https:// or http://")
        allows = allows or address.startswith("http:")
    return allows


def _sends_checksums() -> bool:
    """Say whether to send SHA-256 checksums: the operator chose neither another algorithm nor none.

    The second variable is that of AWS's own clients, for servers without checksums:
    https://docs.aws.amazon.com/sdkref/latest/guide/feature-dataintegrity.html
    """
    is_asked = bool(os.environ.get("AWS_CHECKSUM_ALGORITHM"))
    wish = os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "")
    return not is_asked and wish.lower() != "when_required"


def _is_on(name: str) -> bool:
    return any(os.environ.get(f"{prefix}{name}", "").lower() in _TRUE for prefix in PREFIXES)
