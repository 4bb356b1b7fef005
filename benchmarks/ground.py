"""The ground that all contenders share: one Postgres, one Valkey, and processes that end with us."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil

from service.local import environment
from service.local.guard import guarded
from service.local.servers import postgres, valkey

ROOT = Path(__file__).resolve().parent.parent
SECRET = "secret-of-the-benchmark"  # noqa: S105 signs nothing but what is measured
_READY_SECONDS = 60
_END_SECONDS = 30


class Broken(Exception):
    """A measurement cannot be had, or what it left is not what it should be; the message says why."""


@dataclass(frozen=True)
class Ground:
    """Where everything runs."""

    directory: Path
    database_url: str
    redis_url: str

    def database(self, name: str) -> str:
        """Return the DATABASE_URL of a database of this name."""
        return urlunsplit(urlsplit(self.database_url)._replace(path=f"/{name}"))

    @property
    def files(self) -> Path:
        """Where the contender of the moment puts its files."""
        return self.directory / "files"

    def variables(self, name: str, **more: str) -> dict[str, str]:
        """Return the environment of a contender's process: every setting of Holdfast at its default but these."""
        own = {key: value for key, value in os.environ.items() if key not in environment.names()}
        return {
            **own,
            "DATABASE_URL": self.database(name),
            "REDIS_URL": self.redis_url,
            "STORAGE_URL": f"file://{self.files}",
            "HOST": "127.0.0.1",
            "ZENDESK_WEBHOOK_SECRETS": SECRET,
            "WEBHOOK_TOLERANCE_SECONDS": "86400",  # signed once, sent as long as the benchmark runs
            "DOWNLOAD_HOSTS": "127.0.0.1",
            "DOWNLOAD_PRIVATE_NETWORKS": "true",
            "LOG_LEVEL": "WARNING",
            **more,
        }


@contextmanager
def open_ground() -> Iterator[Ground]:
    """Start the servers in a temporary directory, which is removed afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-bench-", ignore_cleanup_errors=True) as path,
        postgres(Path(path) / "postgres") as database_url,
        valkey(Path(path) / "valkey") as redis_url,
    ):
        # With a password in it, asyncpg looks for none in a file.
        yield Ground(Path(path), database_url.replace("postgres@", "postgres:any@"), redis_url)


async def make_database(ground: Ground, name: str, *command: str) -> None:
    """Make a database, unless it is there, and its tables by this command."""
    connection = await asyncpg.connect(ground.database_url)
    try:
        if await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
            return
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    async with program(ground, f"tables.{name}", command, ground.variables(name)) as made:
        if await made.wait() != 0:
            raise Broken(f"no tables for {name}: {read_words(ground, f'tables.{name}')}")


async def clear(ground: Ground, name: str) -> None:
    """Empty the database, Valkey and the directory of files, and let Postgres have its checkpoint now."""
    connection = await asyncpg.connect(ground.database(name))
    try:
        query = (
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        )
        tables = ", ".join(row["tablename"] for row in await connection.fetch(query))
        await connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    reader, writer = await asyncio.open_unix_connection(urlsplit(ground.redis_url).path)
    writer.write(b"FLUSHALL\r\n")
    await reader.readline()
    writer.close()
    await clear_files(ground)


async def clear_files(ground: Ground) -> None:
    await asyncio.to_thread(_empty, ground.files)


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    os.sync()  # what others wrote is not for the next one to wait for


@asynccontextmanager
async def program(
    ground: Ground, name: str, command: Sequence[str], variables: Mapping[str, str]
) -> AsyncIterator[Process]:
    """Run a command beside the block, and end it with the block; its words go to a file."""
    with (ground.directory / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *guarded(command, SIGKILL), cwd=ROOT, env=dict(variables), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        await _end(process)


@dataclass(frozen=True)
class Web:
    """A web process that listens."""

    port: int
    process: Process


@asynccontextmanager
async def web(
    ground: Ground, name: str, command: Sequence[str], variables: Mapping[str, str]
) -> AsyncIterator[Web]:
    """Run a web process until the block ends; yield it once it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    async with program(ground, name, command, {**variables, "PORT": str(port)}) as process:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if process.returncode is not None or time.monotonic() > deadline:
                    raise Broken(f"{name} does not listen: {read_words(ground, name)}") from None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                break
        yield Web(port, process)


async def words_of(ground: Ground, name: str, process: Process) -> str:
    """Wait for the first line that a program writes."""
    deadline = time.monotonic() + _READY_SECONDS
    while not (words := read_words(ground, name)):
        if process.returncode is not None or time.monotonic() > deadline:
            raise Broken(f"{name} does not say where it is")
        await asyncio.sleep(0.05)
    return words


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(SIGTERM)
    try:
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def cpu_seconds(process: Process) -> float:
    """Return how much processor time a process and its children have had."""
    main = psutil.Process(process.pid)
    times = [one.cpu_times() for one in (main, *main.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


def peak_bytes(process: Process) -> int:
    """Return the most memory that a process ever had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def read_words(ground: Ground, name: str) -> str:
    """Return the last of what a program wrote."""
    text = (ground.directory / f"{name}.log").read_text(errors="replace")
    return " ".join(text.split()[-80:])


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]
