"""Work: how many e-mails a second, each with a file of 100 kB, one worker process has done with."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks.checks import check_files, check_record, check_work, fetch_row, until
from benchmarks.field import Contender, prepare
from benchmarks.ground import (
    Broken,
    Ground,
    clear,
    clear_files,
    cpu_seconds,
    peak_bytes,
    program,
    python,
    read_words,
    web,
)
from benchmarks.load import fetch, pace
from benchmarks.results import Section, at_least, ratio
from benchmarks.webhooks import write_webhooks

FILE_BYTES = 100_000
AT_ONCE = 20  # downloads in the bare loop: what Holdfast has by default
LIMIT, CAREFUL, SERVER = "limit", "limit+hash", "server"
_SERVER_SECONDS = 2
_MORE = 5  # files for the bare loops, which would have done with as many in a moment

_TITLES = {
    SERVER: "the server of the files, asked by wrk",
    LIMIT: "limit: aiohttp downloads into files, nothing else",
    CAREFUL: "the same, with SHA-256 and fsync of each file",
    "holdfast": "**Holdfast**",
    "simple": "arq by the book, async SQLAlchemy",
    "usual": "the usual: Dramatiq with 8 threads, requests, SQLAlchemy",
}
_HEADER = ("", "e-mails/s, of the limit", "of Holdfast", "processor time, of the limit")
_ABOUT = f"""E-mails with one file of {FILE_BYTES // 1000} kB each, every file another one, which wait in the queue when one worker process
starts; the time runs from the first `started_at` to the last `completed_at` in Postgres. The limit has {AT_ONCE}
downloads at once, as Holdfast has by default. After each turn every e-mail was `completed`, and every file on disk was
compared byte by byte with what the server of the files had sent. arq by the book and the usual do not fsync their
files."""


@dataclass(frozen=True)
class Done:
    """What one worker process, or a bare loop, did in one round."""

    per_second: float
    cpu: float = 0.0  # seconds of the worker for each e-mail
    peak_bytes: int = 0


@dataclass(frozen=True)
class Files:
    """A stand-in that serves files."""

    port: int
    size: int

    def address(self, number: int | str) -> str:
        return f"http://127.0.0.1:{self.port}/file/{number}/{self.size}"


async def run(ground: Ground, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure, and put it into words."""
    done = await measure(ground, await prepare(ground), rounds=rounds, emails=40 if quick else 600)
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
    ground: Ground, contenders: Sequence[Contender], *, rounds: int, emails: int
) -> dict[str, list[Done]]:
    """Return files a second: of the bare loops, of each contender, and of wrk on the server of the files."""
    names = (SERVER, LIMIT, CAREFUL, *(contender.name for contender in contenders))
    rates: dict[str, list[Done]] = {name: [] for name in names}
    async with serve_files(ground, FILE_BYTES) as files:
        for _ in range(rounds):
            rates[SERVER].append(Done(await fetch(files.address(1), AT_ONCE, _SERVER_SECONDS)))
            for careful, name in enumerate((LIMIT, CAREFUL)):
                rates[name].append(await loop_bare(ground, files, emails * _MORE, careful=bool(careful)))
            for contender in contenders:
                rates[contender.name].append(await work_off(ground, contender, files, emails))
    return rates


@asynccontextmanager
async def serve_files(ground: Ground, size: int) -> AsyncIterator[Files]:
    """Run the file server in a process of its own."""
    command = python("-m", "benchmarks.stand_in")
    async with web(ground, "files", command, ground.variables("none")) as server:
        yield Files(server.port, size)


async def loop_bare(ground: Ground, files: Files, count: int, *, careful: bool) -> Done:
    """Return the files a second of a loop that only downloads; a careful one hashes and syncs them."""
    await clear_files(ground)
    arguments = [str(ground.files), files.address("{}"), str(count), str(AT_ONCE)]
    command = python(
        "-m", "benchmarks.contenders.bare_loop", *arguments, "careful" if careful else "careless"
    )
    async with program(ground, "bare_loop", command, ground.variables("none")) as process:
        code = await process.wait()
    words = read_words(ground, "bare_loop")
    if code != 0:
        raise Broken(f"the bare loop broke: {words}")
    await asyncio.to_thread(check_files, ground.files, "the bare loop", count, files.size)
    took, cpu = map(float, words.split())
    return Done(count / took, cpu / count)


async def work_off(
    ground: Ground,
    contender: Contender,
    files: Files,
    count: int,
    more: Mapping[str, str] | None = None,
) -> Done:
    """Put so many e-mails on record, then let a worker do them; return how that went."""
    await clear(ground, contender.name)
    variables = ground.variables(contender.name)
    webhooks = await asyncio.to_thread(
        write_webhooks, ground.directory / "emails", range(count), files.address, file_bytes=files.size
    )
    async with web(ground, f"{contender.name}.web", contender.web, variables) as server:
        await pace(server.port, await asyncio.to_thread(webhooks.read, 0, count), float("inf"))
    await check_record(ground, contender.name, count, 0)
    variables |= more or {}
    name = f"{contender.name}.worker"
    async with program(ground, name, contender.worker, variables) as worker:
        await until(ground, contender.name, worker, "count(started_at) > 0")
        before = cpu_seconds(worker)
        await until(ground, contender.name, worker, "count(completed_at) = count(*)")
        cpu, peak = cpu_seconds(worker) - before, peak_bytes(worker)
    await check_work(ground, contender.name, count, files.size)
    query = "SELECT extract(epoch FROM max(completed_at) - min(started_at))::float8 FROM incoming_emails"
    (seconds,) = await fetch_row(ground, contender.name, query)
    return Done(count / float(seconds), cpu / count, peak)


def speeds(done: Sequence[Done]) -> list[float]:
    return [one.per_second for one in done]
