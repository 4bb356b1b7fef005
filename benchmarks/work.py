"""Work: the e-mails a second, each with a file of 100 kB, that one worker process completes."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks.checks import check_files, check_record, check_work, fetch_row, wait_until
from benchmarks.load import fetch, send_at_rate
from benchmarks.results import Section, at_least, ratio
from benchmarks.services import Service, prepare
from benchmarks.testbed import (
    MeasurementError,
    Testbed,
    clear,
    clear_files,
    cpu_seconds,
    last_output,
    peak_bytes,
    program,
    python,
    web,
)
from benchmarks.webhooks import write_webhooks

FILE_BYTES = 100_000
AT_ONCE = 20  # downloads in the bare loop; also Holdfast's default
LIMIT, CAREFUL, SERVER = "limit", "limit+hash", "server"
_SERVER_SECONDS = 2
_MORE = 5  # times as many files for the bare loops, which are much faster

_TITLES = {
    SERVER: "the file server, measured by wrk",
    LIMIT: "limit: aiohttp downloads into files, nothing else",
    CAREFUL: "the same, with SHA-256 and fsync of each file",
    "holdfast": "**Holdfast**",
    "simple": "arq as documented, async SQLAlchemy",
    "usual": "the usual: Dramatiq with 8 threads, requests, SQLAlchemy",
}
_HEADER = ("", "e-mails/s, of the limit", "of Holdfast", "processor time, of the limit")
_ABOUT = f"""E-mails with one file of {FILE_BYTES // 1000} kB each, all different, are in the queue when one worker process starts; the time runs
from the first `started_at` to the last `completed_at` in Postgres. The limit has {AT_ONCE} downloads at once, as Holdfast has
by default. After each run every e-mail was `completed`, and every file on disk was compared with the served bytes. The
two other implementations do not fsync their files."""


@dataclass(frozen=True)
class WorkResult:
    """The figures of one worker process, or of a bare loop, in one round."""

    per_second: float
    cpu: float = 0.0  # seconds of the worker for each e-mail
    peak_bytes: int = 0


@dataclass(frozen=True)
class Files:
    """The file server."""

    port: int
    size: int

    def address(self, number: int | str) -> str:
        return f"http://127.0.0.1:{self.port}/file/{number}/{self.size}"


async def run(testbed: Testbed, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure this part, and return its section."""
    done = await measure(testbed, await prepare(testbed), rounds=rounds, emails=40 if quick else 600)
    rows = [
        (
            title,
            ratio(speeds(done[name]), speeds(done[LIMIT])),
            ratio(speeds(done[name]), speeds(done["holdfast"])),
            "" if name == SERVER else ratio([d.cpu for d in done[name]], [d.cpu for d in done[LIMIT]]),
        )
        for name, title in _TITLES.items()
        if name in done
    ]
    holdfast = speeds(done["holdfast"])
    aims = [at_least(0.3, "of the limit", ratio(holdfast, speeds(done[LIMIT])))]
    if "usual" in done:
        aims.append(at_least(4, "times the usual", ratio(holdfast, speeds(done["usual"]))))
    return Section("Work", _ABOUT, _HEADER, rows, aims)


async def measure(
    testbed: Testbed, services: Sequence[Service], *, rounds: int, emails: int
) -> dict[str, list[WorkResult]]:
    """Return the files a second of the bare loops, of each service, and of wrk on the file server."""
    names = (SERVER, LIMIT, CAREFUL, *(service.name for service in services))
    rates: dict[str, list[WorkResult]] = {name: [] for name in names}
    async with serve_files(testbed, FILE_BYTES) as files:
        for _ in range(rounds):
            rates[SERVER].append(WorkResult(await fetch(files.address(1), AT_ONCE, _SERVER_SECONDS)))
            for careful, name in enumerate((LIMIT, CAREFUL)):
                rates[name].append(await loop_bare(testbed, files, emails * _MORE, careful=bool(careful)))
            for service in services:
                rates[service.name].append(await process_emails(testbed, service, files, emails))
    return rates


@asynccontextmanager
async def serve_files(testbed: Testbed, size: int) -> AsyncIterator[Files]:
    """Run the file server in a process of its own."""
    command = python("-m", "benchmarks.stand_in")
    async with web(testbed, "files", command, testbed.variables("none")) as server:
        yield Files(server.port, size)


async def loop_bare(testbed: Testbed, files: Files, count: int, *, careful: bool) -> WorkResult:
    """Measure a loop that only downloads; with `careful`, it also hashes and fsyncs the files."""
    await clear_files(testbed)
    arguments = [str(testbed.files), files.address("{}"), str(count), str(AT_ONCE)]
    command = python(
        "-m", "benchmarks.contenders.bare_loop", *arguments, "careful" if careful else "careless"
    )
    async with program(testbed, "bare_loop", command, testbed.variables("none")) as process:
        code = await process.wait()
    output = last_output(testbed, "bare_loop")
    if code != 0:
        raise MeasurementError(f"the bare loop failed: {output}")
    await asyncio.to_thread(check_files, testbed.files, "the bare loop", count, files.size)
    took, cpu = map(float, output.split())
    return WorkResult(count / took, cpu / count)


async def process_emails(
    testbed: Testbed,
    service: Service,
    files: Files,
    count: int,
    more: Mapping[str, str] | None = None,
) -> WorkResult:
    """Save `count` e-mails, then measure a worker that processes them."""
    await clear(testbed, service.name)
    variables = testbed.variables(service.name)
    webhooks = await asyncio.to_thread(
        write_webhooks, testbed.directory / "emails", range(count), files.address, file_bytes=files.size
    )
    async with web(testbed, f"{service.name}.web", service.web, variables) as server:
        await send_at_rate(server.port, await asyncio.to_thread(webhooks.read, 0, count), float("inf"))
    await check_record(testbed, service.name, count, 0)
    variables |= more or {}
    name = f"{service.name}.worker"
    async with program(testbed, name, service.worker, variables) as worker:
        await wait_until(testbed, service.name, worker, "count(started_at) > 0")
        before = cpu_seconds(worker)
        await wait_until(testbed, service.name, worker, "count(completed_at) = count(*)")
        cpu, peak = cpu_seconds(worker) - before, peak_bytes(worker)
    await check_work(testbed, service.name, count, files.size)
    query = "SELECT extract(epoch FROM max(completed_at) - min(started_at))::float8 FROM incoming_emails"
    (seconds,) = await fetch_row(testbed, service.name, query)
    return WorkResult(count / float(seconds), cpu / count, peak)


def speeds(done: Sequence[WorkResult]) -> list[float]:
    return [one.per_second for one in done]
