"""The whole of Holdfast on this machine, with a hand on each of its parts."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from service.local import environment
from service.local.drill import receiving
from service.local.drill.proxy import Connect, Proxy
from service.local.guard import guarded
from service.local.launch import ServerError
from service.local.servers import Server, free_port, prepare_postgres, prepare_valkey
from service.local.stack import ROOT, migrate, wait_until_ready
from service.local.supervisor import Child, Program, Say, supervise
from service.local.zendesk.stand_in import Zendesk

LOG = "drill.log"
LEASE_SECONDS = 4
_WEBS, _WORKERS = 2, 3
_READY_SECONDS = 60
# Preloaded into a process, it shows it another time of day; Debian's package libfaketime has it.
_FAKETIME = "usr/lib/*/faketime/libfaketime.so.1"
# As on a disk that takes its time: whoever commits meanwhile is answered in the same moment.
_COMMITS_TOGETHER = ("-c", "commit_delay=4000", "-c", "commit_siblings=0")
_SETTINGS = {
    # A minute of drill stands for half an hour: what waits, waits shorter than in production.
    "LEASE_SECONDS": str(LEASE_SECONDS),
    # An e-mail that is always in the wrong place meets more in this minute than elsewhere in a month.
    "MAX_RETRIES": "7",
    "RETRY_MIN_SECONDS": "2",
    "RETRY_MAX_SECONDS": "15",
    "EARLY_SECONDS": "5",
    "DOWNLOAD_STALL_SECONDS": "5",
    "SHUTDOWN_SECONDS": "5",
    "DOWNLOAD_HOSTS": "127.0.0.1",
    "DOWNLOAD_PRIVATE_NETWORKS": "true",
    "LOG_FORMAT": "json",
}


class Missed(Exception):
    """A fault found nothing to do harm to."""


class Stubborn(Exception):
    """A process did not end when it was told to; the message says which."""


@dataclass(frozen=True)
class Ground:
    """What faults are injected into, and what is looked at in the end. `database_url` and `redis_url` lead past the proxies."""

    directory: Path
    webs: Sequence[str]
    database_url: str
    redis_url: str
    postgres: Proxy
    redis: Proxy
    servers: Mapping[str, Child]
    targets: Mapping[str, Proxy]
    kept: receiving.Kept
    processes: Mapping[str, Child]

    @property
    def storage(self) -> Path:
        """Where STORAGE_URL leads: a link, so that the storage can be taken away and given back at once."""
        return self.directory / "storage"

    @property
    def objects(self) -> Path:
        return self.directory / "objects"

    @property
    def fault_points(self) -> Path:
        return self.directory / "fault_points"


@asynccontextmanager
async def open_ground(
    directory: Path, zendesk: Zendesk, say: Say, hurry: asyncio.Event, *, skew: bool
) -> AsyncIterator[Ground]:
    """Start two web and three worker processes over servers of their own, from nothing. Raises ServerError.

    `skew` has one of each ten minutes ahead or behind.
    """
    _begin_anew(directory)
    async with AsyncExitStack() as stack:
        sync = stack.enter_context(receiving.prepare_targets(directory))
        prepared = [
            stack.enter_context(prepare_postgres(directory / "postgres")),
            stack.enter_context(prepare_valkey(directory / "valkey")),
            *sync.servers,
        ]
        servers = await stack.enter_async_context(
            supervise([[_server(server) for server in prepared]], say, hurry, 0.5)
        )
        for server in prepared:
            await _until_ready(server, servers[server.name])
        postgres = await stack.enter_async_context(Proxy(_dial(prepared[0], ".s.PGSQL.5432")))
        redis = await stack.enter_async_context(Proxy(_dial(prepared[1])))
        carriers = {
            server.name: await stack.enter_async_context(Proxy(_dial(server))) for server in sync.servers
        }
        variables = {**_variables(directory, zendesk, postgres, redis), **receiving.variables(carriers)}
        migrate({**variables, "DATABASE_URL": prepared[0].url})
        ports = [free_port() for _ in range(_WEBS)]
        processes = await stack.enter_async_context(
            supervise(_programs(variables, ports, skew=skew), say, hurry, 0.5)
        )
        webs = [f"http://127.0.0.1:{port}" for port in ports]
        for web in webs:
            await wait_until_ready(web)
        yield Ground(
            directory=directory,
            webs=webs,
            database_url=prepared[0].url,
            redis_url=prepared[1].url,
            postgres=postgres,
            redis=redis,
            servers=servers,
            targets=carriers,
            kept=sync.kept,
            processes=processes,
        )


def find_faketime() -> Path | None:
    return next(Path("/").glob(_FAKETIME), None)


def check_place(directory: Path) -> None:
    """Refuse a directory that is somebody's: what an earlier drill left there is removed. Raises ServerError."""
    found = {path.name for path in directory.glob("*")} - {"lock"}
    if found and LOG not in found:
        raise ServerError(
            f"{directory} is neither empty nor that of an earlier drill: choose another --data-dir"
        )


def _begin_anew(directory: Path) -> None:
    for name in ("postgres", "valkey", "mongodb", "objects", "fault_points"):
        try:
            shutil.rmtree(directory / name)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise ServerError(f"cannot remove {directory / name}: {exc.strerror}") from exc
    for name in ("objects", "fault_points"):
        (directory / name).mkdir(parents=True)
    for name in ("storage", "messages"):
        (directory / name).unlink(missing_ok=True)
    (directory / "storage").symlink_to(directory / "objects")


def _variables(directory: Path, zendesk: Zendesk, postgres: Proxy, redis: Proxy) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in environment.names()}
    return {
        **own,
        **_SETTINGS,
        "DATABASE_URL": f"postgresql://postgres:any@127.0.0.1:{postgres.port}/postgres?sslmode=disable",
        "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
        "STORAGE_URL": f"file://{quote(str(directory))}/storage",
        "FAULT_POINTS": f"{directory}/fault_points",
        "HOST": "127.0.0.1",
        "API_TOKEN": "token-of-the-drill",
        "ZENDESK_WEBHOOK_SECRETS": zendesk.secret,
        "ZENDESK_URL": zendesk.url,
        "ZENDESK_OAUTH_CLIENT_ID": zendesk.client_id,
        "ZENDESK_OAUTH_CLIENT_SECRET": zendesk.client_secret,
    }


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


def _server(server: Server) -> Program:
    more = _COMMITS_TOGETHER if server.name == "postgres" else ()
    command = guarded([*server.command, *more], server.stop, owner=server.owner)
    return Program(server.name, command, receiving.environment(), server.directory)


def _dial(server: Server, socket: str = "") -> Connect:
    parts = urlsplit(server.url)
    if parts.hostname and parts.port:
        return lambda: asyncio.open_connection(parts.hostname, parts.port)
    path = f"{parse_qs(parts.query)['host'][0]}/{socket}" if socket else parts.path
    return lambda: asyncio.open_unix_connection(path)


async def _until_ready(server: Server, child: Child) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not (child.process and server.is_ready(child.process.pid)):
        if time.monotonic() > deadline:
            raise ServerError(f"{server.name} is not ready after {_READY_SECONDS} s")
        await asyncio.sleep(0.05)
