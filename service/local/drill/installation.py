"""The installation under test: two web and three worker processes, their servers, and a proxy before each server."""

import asyncio
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg

from service.local import environment, receiver
from service.local.drill.proxy import Connect, Proxy
from service.local.guard import guarded
from service.local.launch import ServerError
from service.local.servers import (
    Server,
    free_port,
    has_mongodb,
    listens,
    prepare_mongodb,
    prepare_postgres,
    prepare_valkey,
)
from service.local.stack import ROOT, migrate, wait_until_ready
from service.local.supervisor import Child, Program, Say, supervise
from service.local.zendesk.stand_in import Zendesk

LOG = "drill.log"
LEASE_SECONDS = 4
SYNC_SECONDS = 3
# What a statement of the drill itself meets while faults hurt Postgres; asyncpg has no common class. Its internal error: the
# server ended the session in this very moment.
POSTGRES_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
COLLECTION, RECEIVER = "mongodb", "receiver"  # the targets of the sync, by the names of their servers
_WEBS, _WORKERS = 2, 3
_READY_SECONDS = 60
_LONGEST_PAUSE_SECONDS = 0.5  # before a process that ended restarts
_NAMESPACE = "holdfast.emails"
_MESSAGES = "messages"
# Only this drill's own servers on loopback use it.
_SYNC_SECRET = "whsec_aG9sZGZhc3QgZHJpbGxzIGl0cyBvd24gdGFyZ2V0cyE="  # noqa: S105
# Debian's package libfaketime; preloaded into a process, it shifts the process's clock.
_FAKETIME = "usr/lib/*/faketime/libfaketime.so.1"
# Commits take as long as on a slow disk, so that several webhooks share one.
_SLOW_COMMITS = ("-c", "commit_delay=4000", "-c", "commit_siblings=0")
_SETTINGS = {
    # A minute of drill stands for half an hour, so all times are shorter than in production.
    "LEASE_SECONDS": str(LEASE_SECONDS),
    # One e-mail may meet more faults in this minute than in a month of production.
    "MAX_RETRIES": "7",
    "RETRY_MIN_SECONDS": "2",
    "RETRY_MAX_SECONDS": "15",
    "EARLY_SECONDS": "5",
    "BACKFILL_MINUTES": "1",
    "DOWNLOAD_STALL_SECONDS": "5",
    "SHUTDOWN_SECONDS": "5",
    "DOWNLOAD_HOSTS": "127.0.0.1",
    "DOWNLOAD_PRIVATE_NETWORKS": "true",
    "LOG_FORMAT": "json",
    "RETENTION_FLOOR_DAYS": "0",
    "SYNC_WEBHOOK_SECRET": _SYNC_SECRET,
    "SYNC_SECONDS": str(SYNC_SECONDS),
    "SYNC_RETRY_MIN_SECONDS": "1",
    "SYNC_RETRY_MAX_SECONDS": "5",
    # No outage of a drill uses up so many: a sync that fails all the same was given up too early.
    "SYNC_MAX_RETRIES": "200",
}


class NoEffect(Exception):
    """A fault found nothing to harm."""


class Stuck(Exception):
    """A process did not end after a signal; the message names it."""


@dataclass(frozen=True)
class Installation:
    """The parts that faults harm and audits read. The three URLs lead to the servers past the proxies."""

    directory: Path
    zendesk: Zendesk
    webs: Sequence[str]
    database_url: str
    redis_url: str
    collection_url: str | None  # None without a server of MongoDB's protocol
    servers: Mapping[str, Child]
    proxies: Mapping[str, Proxy]  # by the name of the server
    processes: Mapping[str, Child]
    variables: Mapping[str, str]  # the environment of our processes

    @property
    def postgres(self) -> Proxy:
        return self.proxies["postgres"]

    @property
    def redis(self) -> Proxy:
        return self.proxies["valkey"]

    @property
    def targets(self) -> Mapping[str, Proxy]:
        return {name: proxy for name, proxy in self.proxies.items() if name in {COLLECTION, RECEIVER}}

    @property
    def storage(self) -> Path:
        """STORAGE_URL's directory: a link to `objects`, which a fault can turn elsewhere in one step."""
        return self.directory / "storage"

    @property
    def objects(self) -> Path:
        return self.directory / "objects"

    @property
    def messages(self) -> Path:
        """The file of the sync's receiver."""
        return self.directory / _MESSAGES

    @property
    def fault_points(self) -> Path:
        return self.directory / "fault_points"


@asynccontextmanager
async def open_installation(
    directory: Path, zendesk: Zendesk, say: Say, hurry: asyncio.Event, *, skew: bool
) -> AsyncIterator[Installation]:
    """Start everything in an empty state. Raises ServerError.

    With `skew`, the clock of one web process is ten minutes behind, and that of one worker ten minutes ahead.
    """
    _remove_earlier_drill(directory)
    async with AsyncExitStack() as stack:
        prepared = stack.enter_context(_prepare_servers(directory))
        programs = [_server_program(server) for server in prepared.values()]
        servers = await stack.enter_async_context(supervise([programs], say, hurry, _LONGEST_PAUSE_SECONDS))
        for name, server in prepared.items():
            await _wait_until_ready(server, servers[name])
        proxies = {
            name: await stack.enter_async_context(Proxy(_connector(server)))
            for name, server in prepared.items()
        }
        variables = _variables(directory, zendesk, proxies)
        migrate({**variables, "DATABASE_URL": prepared["postgres"].url})
        ports = [free_port() for _ in range(_WEBS)]
        stages = _programs(variables, ports, skew=skew)
        processes = await stack.enter_async_context(supervise(stages, say, hurry, _LONGEST_PAUSE_SECONDS))
        webs = [f"http://127.0.0.1:{port}" for port in ports]
        for web in webs:
            await wait_until_ready(web)
        collection = prepared.get(COLLECTION)
        yield Installation(
            directory=directory,
            zendesk=zendesk,
            webs=webs,
            database_url=prepared["postgres"].url,
            redis_url=prepared["valkey"].url,
            collection_url=_in_collection(collection.url) if collection else None,
            servers=servers,
            proxies=proxies,
            processes=processes,
            variables=variables,
        )


def find_faketime() -> Path | None:
    return next(Path("/").glob(_FAKETIME), None)


def has_collection() -> bool:
    """Say whether a server of MongoDB's protocol and a client for it are installed."""
    return has_mongodb() and importlib.util.find_spec("pymongo") is not None


def check_directory(directory: Path) -> None:
    """Refuse a directory with files that no earlier drill left. Raises ServerError."""
    found = {path.name for path in directory.glob("*")} - {"lock"}
    if found and LOG not in found:
        raise ServerError(f"{directory} is not empty and holds no earlier drill: choose another --data-dir")


def _remove_earlier_drill(directory: Path) -> None:
    for name in ("postgres", "valkey", "mongodb", "objects", "fault_points"):
        try:
            shutil.rmtree(directory / name)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise ServerError(f"cannot remove {directory / name}: {exc.strerror}") from exc
    for name in ("objects", "fault_points"):
        (directory / name).mkdir(parents=True)
    for name in ("storage", _MESSAGES):
        (directory / name).unlink(missing_ok=True)
    (directory / "storage").symlink_to(directory / "objects")


@contextmanager
def _prepare_servers(directory: Path) -> Iterator[Mapping[str, Server]]:
    """Prepare the servers for a supervisor; yield them by name."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(prepare_postgres(directory / "postgres")),
            stack.enter_context(prepare_valkey(directory / "valkey")),
            _prepare_receiver(directory / _MESSAGES),
        ]
        if has_collection():
            servers.append(stack.enter_context(prepare_mongodb(directory / "mongodb")))
        yield {server.name: server for server in servers}


def _prepare_receiver(messages: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "service.local.receiver", str(port), str(messages)]
    url = f"http://127.0.0.1:{port}{receiver.PATH}"
    return Server(RECEIVER, url, command, ROOT, SIGTERM, lambda _: listens(port))


def _server_program(server: Server) -> Program:
    more = _SLOW_COMMITS if server.name == "postgres" else ()
    command = guarded([*server.command, *more], server.stop, owner=server.owner)
    variables = {**os.environ, "SYNC_WEBHOOK_SECRET": _SYNC_SECRET}
    return Program(server.name, command, variables, server.directory)


async def _wait_until_ready(server: Server, child: Child) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not (child.process and server.is_ready(child.process.pid)):
        if time.monotonic() > deadline:
            raise ServerError(f"{server.name} is not ready after {_READY_SECONDS} s")
        await asyncio.sleep(0.05)


def _connector(server: Server) -> Connect:
    parts = urlsplit(server.url)
    if parts.hostname and parts.port:
        return lambda: asyncio.open_connection(parts.hostname, parts.port)
    path = parts.path
    if server.name == "postgres":
        path = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
    return lambda: asyncio.open_unix_connection(path)


def _variables(directory: Path, zendesk: Zendesk, proxies: Mapping[str, Proxy]) -> dict[str, str]:
    """Return the environment of our processes; every server is reached through its proxy."""
    own = {name: value for name, value in os.environ.items() if name not in environment.names()}
    address = {name: f"127.0.0.1:{proxy.port}" for name, proxy in proxies.items()}
    targets = [f"http://{address[RECEIVER]}{receiver.PATH}"]
    if COLLECTION in address:
        targets.append(_in_collection(f"mongodb://{address[COLLECTION]}"))
    return {
        **own,
        **_SETTINGS,
        "DATABASE_URL": f"postgresql://postgres:any@{address['postgres']}/postgres?sslmode=disable",
        "REDIS_URL": f"redis://{address['valkey']}/0",
        "STORAGE_URL": f"file://{quote(str(directory))}/storage",
        "SYNC_URL": ",".join(targets),
        "FAULT_POINTS": f"{directory}/fault_points",
        "HOST": "127.0.0.1",
        "API_TOKEN": "token-of-the-drill",
        "ZENDESK_WEBHOOK_SECRETS": zendesk.secret,
        "ZENDESK_URL": zendesk.url,
        "ZENDESK_OAUTH_CLIENT_ID": zendesk.client_id,
        "ZENDESK_OAUTH_CLIENT_SECRET": zendesk.client_secret,
    }


def _in_collection(url: str) -> str:
    # The server tells clients its own address; with directConnection they stay on the proxy.
    return f"{url}/{_NAMESPACE}?directConnection=true"


def _programs(
    variables: Mapping[str, str], ports: Sequence[int], *, skew: bool
) -> Sequence[Sequence[Program]]:
    def program(kind: str, name: str, more: Mapping[str, str]) -> Program:
        command = [sys.executable, "-m", "service", kind]
        return Program(name, command, {**variables, "WORKER_NAME": name, **more}, ROOT)

    webs = [program("web", f"web.{n}", {"PORT": str(port)}) for n, port in enumerate(ports, 1)]
    workers = [program("worker", f"worker.{n}", {}) for n in range(1, _WORKERS + 1)]
    library = find_faketime()
    if skew and library:
        clock = {"LD_PRELOAD": str(library), "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        webs[-1] = program("web", webs[-1].name, {"PORT": str(ports[-1]), **clock, "FAKETIME": "-600s"})
        workers[-1] = program("worker", workers[-1].name, {**clock, "FAKETIME": "+600s"})
    return [webs, workers]
