"""Tell places apart by their URLs, as far as URLs and variables tell."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

_VENDORS = {"s3a": "s3"} | dict.fromkeys(("azure", "abfs", "abfss", "adl"), "az")
PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")
# A bucket of one name is another one at another server.
SERVERS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


@dataclass(frozen=True)
class Place:
    server: tuple[str, ...]
    path: tuple[str, ...]


def locate(url: str) -> Place:
    """Say where a storage URL leads, with the variables that are set now; follows links on a disk, which blocks."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Place((), Path(os.path.realpath(unquote(parts.path))).parts)
    vendor = vendor_of(url)
    bucket, _, account = parts.netloc.partition("@")  # abfss://container@account.dfs.core.windows.net/…
    if vendor == "az":  # containers of one name may be of two accounts
        vendor = f"az {account.partition('.')[0] or os.environ.get('AZURE_STORAGE_ACCOUNT_NAME', '')}"
    server = (os.environ.get(name, "") for name in SERVERS.get(vendor[:2], ()))
    return Place((vendor, *server), (bucket, *(part for part in parts.path.split("/") if part)))


def vendor_of(url: str) -> str:
    """Name the vendor of a storage URL by its shortest scheme: s3, gs, az."""
    scheme = url.partition(":")[0]
    return _VENDORS.get(scheme, scheme)


def overlap(one: Place, other: Place) -> bool:
    """Tell whether two places are the same, or one lies in the other."""
    shorter = min(len(one.path), len(other.path))
    return one.server == other.server and one.path[:shorter] == other.path[:shorter]


@contextmanager
def variables(given: Mapping[str, str] | None) -> Iterator[None]:
    """Let the vendors' variables be those that are given, and no others, while a storage is opened.

    A storage keeps what it was opened with. Not for a process with other threads, which would see them, too.
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
