"""The testbed that all services share: one Postgres, one Valkey, and processes that end with this one."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import NamedTuple
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
_LARGE_BYTES = 1024**2


class MeasurementError(Exception):
    """A measurement failed, or its results are wrong; the message gives the reason."""


@dataclass(frozen=True)
class Testbed:
    """The directory and the servers of all measurements."""

    directory: Path
    database_url: str
    redis_url: str

    def database(self, name: str) -> str:
        """Return the DATABASE_URL of a database of this name."""
        return urlunsplit(urlsplit(self.database_url)._replace(path=f"/{name}"))

    @property
    def files(self) -> Path:
        """The directory for the files of the measured service."""
        return self.directory / "files"

    def variables(self, name: str, **more: str) -> dict[str, str]:
        """Return the environment of a service's process; other settings of Holdfast have their defaults."""
        own = {key: value for key, value in os.environ.items() if key not in environment.names()}
        return {
            **own,
            "DATABASE_URL": self.database(name),
            "REDIS_URL": self.redis_url,
            "STORAGE_URL": f"file://{self.files}",
            "HOST": "127.0.0.1",
            "ZENDESK_WEBHOOK_SECRETS": SECRET,
            "WEBHOOK_TOLERANCE_SECONDS": "86400",  # signed once, and sent until the benchmark ends
            "DOWNLOAD_HOSTS": "127.0.0.1",
            "DOWNLOAD_PRIVATE_NETWORKS": "true",
            "LOG_LEVEL": "WARNING",
            **more,
        }


@contextmanager
def open_testbed() -> Iterator[Testbed]:
    """Start the servers in a temporary directory, and remove it at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-bench-", ignore_cleanup_errors=True) as path,
        postgres(Path(path) / "postgres") as database_url,
        valkey(Path(path) / "valkey") as redis_url,
    ):
        # Without a password in the URL, asyncpg would read a file.
        yield Testbed(Path(path), database_url.replace("postgres@", "postgres:any@"), redis_url)


async def make_database(testbed: Testbed, name: str, *command: str) -> None:
    """Make a database if it is missing, and its tables with this command."""
    connection = await asyncpg.connect(testbed.database_url)
    try:
        if await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
            return
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    async with program(testbed, f"tables.{name}", command, testbed.variables(name)) as made:
        if await made.wait() != 0:
            raise MeasurementError(f"no tables for {name}: {last_output(testbed, f'tables.{name}')}")


async def clear(testbed: Testbed, name: str) -> None:
    """Empty the database, Valkey and the files, and make a checkpoint now rather than during a measurement."""
    connection = await asyncpg.connect(testbed.database(name))
    try:
        query = (
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        )
        tables = ", ".join(row["tablename"] for row in await connection.fetch(query))
        await connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    reader, writer = await asyncio.open_unix_connection(urlsplit(testbed.redis_url).path)
    writer.write(b"FLUSHALL\r\n")
    await reader.readline()
    writer.close()
    await clear_files(testbed)


async def clear_files(testbed: Testbed) -> None:
    await asyncio.to_thread(_empty, testbed.files)


def _empty(directory: Path) -> None:
    """Move small files aside until the end: ext4 creates files more slowly for minutes after it removed many."""
    if directory.exists():
        for path in directory.rglob("*"):
            if path.is_file() and path.stat().st_size > _LARGE_BYTES:
                path.unlink()
        directory.rename(directory.with_name(f"files.{time.time_ns()}"))
    directory.mkdir()
    os.sync()  # the next service must not wait for earlier writes


@asynccontextmanager
async def program(
    testbed: Testbed, name: str, command: Sequence[str], variables: Mapping[str, str]
) -> AsyncIterator[Process]:
    """Run a command during the block; its output goes to a file."""
    with (testbed.directory / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *guarded(command, SIGKILL), cwd=ROOT, env=dict(variables), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        await _end(process)


@dataclass(frozen=True)
class Web:
    """A listening web process."""

    port: int
    process: Process


@asynccontextmanager
async def web(
    testbed: Testbed,
    name: str,
    command: Sequence[str],
    variables: Mapping[str, str],
    is_ready: Callable[[int], Awaitable[bool]] | None = None,
) -> AsyncIterator[Web]:
    """Run a web process until the block ends; yield it once it answers a request, or `is_ready` says so of its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    async with program(testbed, name, command, {**variables, "PORT": str(port)}) as process:
        deadline = time.monotonic() + _READY_SECONDS
        while not await (is_ready or _answers)(port):
            if process.returncode is not None or time.monotonic() > deadline:
                raise MeasurementError(f"{name} does not answer: {last_output(testbed, name)}")
            await asyncio.sleep(0.05)
        yield Web(port, process)


async def listens(port: int) -> bool:
    """Say whether a process accepts connections."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _answers(port: int) -> bool:
    """Say whether a process answers: a connection alone may only wait for a process that still starts."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: holdfast.example\r\nConnection: close\r\n\r\n")
        answer = await reader.readline()
        writer.close()
    except OSError:
        return False
    return answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 404"))  # others than Holdfast have no such page


async def first_output(testbed: Testbed, name: str, process: Process) -> str:
    """Wait for the output of a program. Raises MeasurementError if it writes none within a minute."""
    deadline = time.monotonic() + _READY_SECONDS
    while not (output := last_output(testbed, name)):
        if process.returncode is not None or time.monotonic() > deadline:
            raise MeasurementError(f"{name} wrote no output")
        await asyncio.sleep(0.05)
    return output


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


class CpuTime(NamedTuple):
    """Processor time in seconds: of the program, and of the kernel for it."""

    user: float
    system: float


def cpu_time(process: Process) -> CpuTime:
    """Return the processor time of a process and its children."""
    main = psutil.Process(process.pid)
    times = [one.cpu_times() for one in (main, *main.children(recursive=True))]
    return CpuTime(float(sum(time.user for time in times)), float(sum(time.system for time in times)))


def cpu_seconds(process: Process) -> float:
    """Return the processor time of a process and its children, in seconds."""
    return sum(cpu_time(process))


def peak_bytes(process: Process) -> int:
    """Return the peak memory of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def last_output(testbed: Testbed, name: str) -> str:
    """Return the last 80 words of a program's output."""
    text = (testbed.directory / f"{name}.log").read_text(errors="replace")
    return " ".join(text.split()[-80:])


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]
