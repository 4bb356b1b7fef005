"""The targets of a drill's sync, behind proxies: a collection, and a receiver of signed webhooks."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

from service.local import receiver
from service.local.drill.proxy import Proxy
from service.local.servers import Server, free_port, has_mongodb, listens, prepare_mongodb
from service.local.stack import ROOT

COLLECTION, RECEIVER = "mongodb", "receiver"
SYNC_SECONDS = 3
# Of this drill's own servers on loopback, which nobody else reaches.
SECRET = "whsec_aG9sZGZhc3QgZHJpbGxzIGl0cyBvd24gdGFyZ2V0cyE="  # noqa: S105
_NAMESPACE = "holdfast.emails"
_SETTINGS = {
    "SYNC_WEBHOOK_SECRET": SECRET,
    "SYNC_SECONDS": str(SYNC_SECONDS),
    "SYNC_RETRY_MIN_SECONDS": "1",
    "SYNC_RETRY_MAX_SECONDS": "5",
    # No outage of a drill uses that up: what ends `failed` all the same was given up too early.
    "SYNC_MAX_RETRIES": "200",
}


@dataclass(frozen=True)
class Kept:
    """Where to look past the service and the proxies; there may be no server for a collection."""

    collection: str | None
    messages: Path


@dataclass(frozen=True)
class Targets:
    """Servers to start, and what is known of them."""

    servers: Sequence[Server]
    kept: Kept


def has_collection() -> bool:
    """Say whether there is a server of MongoDB's protocol here, and a client for it."""
    return has_mongodb() and importlib.util.find_spec("pymongo") is not None


@contextmanager
def prepare_targets(directory: Path) -> Iterator[Targets]:
    """Get everything ready; somebody else starts the servers, and starts them again."""
    messages = directory / "messages"
    with ExitStack() as stack:
        servers = [_prepare_receiver(messages)]
        collection = None
        if has_collection():
            servers.append(stack.enter_context(prepare_mongodb(directory / "mongodb")))
            collection = f"{servers[-1].url}/{_NAMESPACE}?directConnection=true"
        yield Targets(servers, Kept(collection, messages))


def variables(proxies: Mapping[str, Proxy]) -> Mapping[str, str]:
    """Give the settings that carry everything through these proxies.

    A server of MongoDB's protocol tells its own address to whoever asks; `directConnection` stays on the proxy.
    """
    urls = [f"http://127.0.0.1:{proxies[RECEIVER].port}{receiver.PATH}"]
    if COLLECTION in proxies:
        urls.append(f"mongodb://127.0.0.1:{proxies[COLLECTION].port}/{_NAMESPACE}?directConnection=true")
    return {**_SETTINGS, "SYNC_URL": ",".join(urls)}


def environment() -> Mapping[str, str]:
    """Give what the receiver verifies with."""
    return {**os.environ, "SYNC_WEBHOOK_SECRET": SECRET}


def _prepare_receiver(messages: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "service.local.receiver", str(port), str(messages)]
    url = f"http://127.0.0.1:{port}{receiver.PATH}"
    return Server(RECEIVER, url, command, ROOT, SIGTERM, lambda _: listens(port))
