"""Work: the e-mails a second, each with a file of 100 kB, that one worker process completes."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from benchmarks.checks import check_files, check_record, check_work, fetch_row, wait_until
from benchmarks.load import fetch, send_at_rate
from benchmarks.results import Section, Spread, at_least, ratio
from benchmarks.services import Service, prepare
from benchmarks.testbed import (
    MeasurementError,
    Testbed,
    clear,
    clear_files,
    cpu_time,
    last_output,
    listens,
    peak_bytes,
    program,
    python,
    web,
)
from benchmarks.webhooks import write_webhooks

FILE_BYTES = 100_000
AT_ONCE = 64  # downloads in the bare loop; also Holdfast's default
LIMIT, CAREFUL, SERVER = "limit", "limit+hash", "server"
_SERVER_SECONDS = 2
_MORE = 5  # times as many files for the bare loops, which are much faster

CPU_HEADER = ("processor time, of the limit", "the system's part of it")
_TITLES = {
    SERVER: "the file server, measured by wrk",
    LIMIT: "limit: aiohttp downloads into files, nothing else",
    CAREFUL: "the same, with SHA-256 and fsync of each file",
    "holdfast": "**Holdfast**",
    "simple": "arq as documented, async SQLAlchemy",
    "usual": "the usual: Dramatiq with 8 threads, requests, SQLAlchemy",
}
_HEADER = ("", "e-mails/s, of the limit", "of Holdfast", *CPU_HEADER)
_ABOUT = f"""E-mails with one file of {FILE_BYTES // 1000} kB each, all different, are in the queue when one worker process starts; the time runs
from the first `started_at` to the last `completed_at` in Postgres. The limit has {AT_ONCE} downloads at once, as Holdfast has
by default. After each run every e-mail was `completed`, and every file on disk was compared with the served bytes. The
two other implementations do not fsync their files. Files of earlier runs are moved aside, and not removed: for minutes after
it removed many, ext4 without a journal creates files so slowly that a bare loop takes five times as long."""
_ABOUT_TLS = """The same over TLS, as Zendesk serves files. Every client checks the server's certificate."""


@dataclass(frozen=True)
class WorkResult:
    """The figures of one worker process, or of a bare loop, in one round."""

    per_second: float
    user: float = 0.0  # processor seconds of the worker for each e-mail: the program's own, the system's
    system: float = 0.0
    peak_bytes: int = 0

    @property
    def cpu(self) -> float:
        return self.user + self.system


@dataclass(frozen=True)
class Files:
    """The file server; `trusted` names the file of its certificate authority if it speaks TLS."""

    port: int
    size: int
    trusted: Path | None = None

    def address(self, number: int | str) -> str:
        return f"http{'s' if self.trusted else ''}://127.0.0.1:{self.port}/file/{number}/{self.size}"

    @property
    def variables(self) -> dict[str, str]:
        """The variables that make a client trust the server: of the standard library, and of `requests`."""
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        return dict.fromkeys(names, str(self.trusted)) if self.trusted else {}


async def run(testbed: Testbed, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure this part, and return its section."""
    return await _run(testbed, rounds, quick=quick, title="Work", about=_ABOUT)


async def run_tls(testbed: Testbed, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure this part over TLS, and return its section."""
    return await _run(testbed, rounds, quick=quick, title="Work over TLS", about=_ABOUT_TLS)


async def _run(testbed: Testbed, rounds: int, *, quick: bool, title: str, about: str) -> Section:
    services, emails = await prepare(testbed), 40 if quick else 600
    is_secure = title != "Work"
    done = await measure(testbed, services, rounds=rounds, emails=emails, is_secure=is_secure)
    rows = [
        (
            text,
            ratio(speeds(done[name]), speeds(done[LIMIT])),
            ratio(speeds(done[name]), speeds(done["holdfast"])),
            *(("", "") if name == SERVER else cpu_ratios(done[name], done[LIMIT])),
        )
        for name, text in _TITLES.items()
        if name in done
    ]
    holdfast = speeds(done["holdfast"])
    aims = [at_least(0.5, "of the limit", ratio(holdfast, speeds(done[LIMIT])))]
    if "usual" in done:
        aims.append(at_least(4, "times the usual", ratio(holdfast, speeds(done["usual"]))))
    return Section(title, about, _HEADER, rows, aims)


async def measure(
    testbed: Testbed, services: Sequence[Service], *, rounds: int, emails: int, is_secure: bool
) -> dict[str, list[WorkResult]]:
    """Return the files a second of the bare loops, of each service, and of wrk on the file server."""
    names = (SERVER, LIMIT, CAREFUL, *(service.name for service in services))
    rates: dict[str, list[WorkResult]] = {name: [] for name in names}
    async with serve_files(testbed, FILE_BYTES, is_secure=is_secure) as files:
        for _ in range(rounds):
            rates[SERVER].append(WorkResult(await fetch(files.address(1), AT_ONCE, _SERVER_SECONDS)))
            for careful, name in enumerate((LIMIT, CAREFUL)):
                rates[name].append(await loop_bare(testbed, files, emails * _MORE, careful=bool(careful)))
            for service in services:
                rates[service.name].append(await process_emails(testbed, service, files, emails))
    return rates


@asynccontextmanager
async def serve_files(testbed: Testbed, size: int, *, is_secure: bool = False) -> AsyncIterator[Files]:
    """Run the file server in a process of its own."""
    command, variables = python("-m", "benchmarks.stand_in"), testbed.variables("none")
    trusted = testbed.directory / "trusted.pem" if is_secure else None
    if trusted:
        authority, certificate = trustme.CA(), testbed.directory / "certificate.pem"
        authority.cert_pem.write_to_path(trusted)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        variables["CERTIFICATE"] = str(certificate)
    async with web(testbed, "files", command, variables, is_ready=listens) as server:
        yield Files(server.port, size, trusted)


async def loop_bare(
    testbed: Testbed, files: Files, count: int, at_once: int = AT_ONCE, *, careful: bool
) -> WorkResult:
    """Measure a loop that only downloads; with `careful`, it also hashes and fsyncs the files."""
    await clear_files(testbed)
    arguments = [str(testbed.files), files.address("{}"), str(count), str(at_once)]
    command = python(
        "-m", "benchmarks.contenders.bare_loop", *arguments, "careful" if careful else "careless"
    )
    variables = testbed.variables("none") | files.variables
    async with program(testbed, "bare_loop", command, variables) as process:
        code = await process.wait()
    output = last_output(testbed, "bare_loop")
    if code != 0:
        raise MeasurementError(f"the bare loop failed: {output}")
    await asyncio.to_thread(check_files, testbed.files, "the bare loop", count, files.size)
    took, user, system = map(float, output.split())
    return WorkResult(count / took, user / count, system / count)


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
    variables |= files.variables | dict(more or {})
    name = f"{service.name}.worker"
    async with program(testbed, name, service.worker, variables) as worker:
        await wait_until(testbed, service.name, worker, "count(started_at) > 0")
        before = cpu_time(worker)
        await wait_until(testbed, service.name, worker, "count(completed_at) = count(*)")
        after, peak = cpu_time(worker), peak_bytes(worker)
    await check_work(testbed, service.name, count, files.size)
    query = "SELECT extract(epoch FROM max(completed_at) - min(started_at))::float8 FROM incoming_emails"
    (seconds,) = await fetch_row(testbed, service.name, query)
    user, system = ((later - earlier) / count for earlier, later in zip(before, after, strict=True))
    return WorkResult(count / float(seconds), user, system, peak)


def cpu_ratios(done: Sequence[WorkResult], limit: Sequence[WorkResult]) -> tuple[Spread, Spread]:
    """Compare the processor time round by round, and return the part of it that the system took for the program."""
    return (
        ratio([one.cpu for one in done], [one.cpu for one in limit]),
        ratio([one.system for one in done], [one.cpu for one in done]),
    )


def speeds(done: Sequence[WorkResult]) -> list[float]:
    return [one.per_second for one in done]
