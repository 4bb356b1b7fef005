"""Pick-up: how soon a worker starts with an e-mail that comes in, and what it costs to wait for one."""

import asyncio
from dataclasses import dataclass

from benchmarks.checks import fetch_row, until
from benchmarks.field import HOLDFAST, prepare
from benchmarks.ground import Ground, clear, cpu_seconds, program, web
from benchmarks.load import pace
from benchmarks.results import Section, below, spread
from benchmarks.webhooks import Address, write_webhooks
from benchmarks.work import serve_files

PER_SECOND = 50
SLOW = 50
_SMALL_BYTES = 1_000
_LONGER_SECONDS = 5  # than the measurement, a slow file takes
_UNDER_WAY = 20  # of the slow ones, before the others come; all that a worker downloads at once
_FIRST_SLOW = 500_000  # their numbers

_HEADER = ("", "p50 ms", "p99 ms")
_ABOUT = f"""{PER_SECOND} e-mails a second, at random moments, each with a file of {_SMALL_BYTES:,} bytes, come into one web process, and one
worker waits for them: the time from `received_at` to `started_at` in Postgres. Then the same while {SLOW} e-mails are
under way whose files come a byte a second. The share of a core is what the worker uses while nothing comes. Each
e-mail was started, and without slow ones beside it `completed`."""


@dataclass(frozen=True)
class Waited:
    """Milliseconds from receipt to start."""

    p50: float
    p99: float


async def run(ground: Ground, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure, and put it into words."""
    await prepare(ground)
    seconds = 3 if quick else 10
    alone, beside, idle = [], [], []
    for _ in range(rounds):
        alone.append(await _wait(ground, seconds, slow=0))
        beside.append(await _wait(ground, seconds, slow=SLOW))
        idle.append(await _rest(ground, 3 if quick else 20))
    rows = [
        (name, spread(w.p50 for w in waited), spread(w.p99 for w in waited))
        for name, waited in (("alone", alone), (f"beside {SLOW} slow ones", beside))
    ]
    aims = []
    for name, waited in (("alone", alone), (f"beside {SLOW} slow ones", beside)):
        aims.append(below(10, f"ms: p50 {name}", spread(w.p50 for w in waited)))
        aims.append(below(50, f"ms: p99 {name}", spread(w.p99 for w in waited)))
    aims.append(below(2, "% of a core while nothing comes", spread(share * 100 for share in idle)))
    return Section("Pick-up", _ABOUT, _HEADER, rows, aims)


async def _wait(ground: Ground, seconds: int, *, slow: int) -> Waited:
    """Let e-mails come to a worker that has so many slow ones already."""
    await clear(ground, HOLDFAST.name)
    variables = ground.variables(HOLDFAST.name)
    async with (
        serve_files(ground, _SMALL_BYTES) as files,
        web(ground, "holdfast.web", HOLDFAST.web, variables) as server,
        program(ground, "holdfast.worker", HOLDFAST.worker, variables) as worker,
    ):
        length = seconds + _LONGER_SECONDS
        address = f"http://127.0.0.1:{files.port}/slow/{{}}/{length}".format
        if slow:
            numbers = range(_FIRST_SLOW, _FIRST_SLOW + slow)
            await pace(server.port, await _requests(ground, address, numbers, length), float("inf"))
        # One more: a worker that has only just started is late for what comes.
        await pace(server.port, await _requests(ground, files.address, range(1), files.size), float("inf"))
        started = f"count(started_at) FILTER (WHERE id <= {slow}) >= {min(slow, _UNDER_WAY)}"
        await until(ground, HOLDFAST.name, worker, f"{started} AND count(started_at) > 0")
        (before,) = await fetch_row(ground, HOLDFAST.name, "SELECT max(id) FROM incoming_emails")
        numbers = range(1, 1 + seconds * PER_SECOND)
        await pace(server.port, await _requests(ground, files.address, numbers, files.size), PER_SECOND)
        reached = "started_at" if slow else "completed_at"
        all_of_them = f"count({reached}) FILTER (WHERE id > {before}) = {len(numbers)}"
        await until(ground, HOLDFAST.name, worker, all_of_them)
        query = (
            "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP"
            " (ORDER BY extract(epoch FROM started_at - received_at) * 1000)"
            " FROM incoming_emails WHERE id > $1"
        )
        ((p50, p99),) = await fetch_row(ground, HOLDFAST.name, query, before)
    return Waited(p50, p99)


async def _requests(ground: Ground, address: Address, numbers: range, file_bytes: int) -> list[bytes]:
    webhooks = await asyncio.to_thread(
        write_webhooks, ground.directory / "emails", numbers, address, file_bytes=file_bytes
    )
    return await asyncio.to_thread(webhooks.read, 0, len(numbers))


async def _rest(ground: Ground, seconds: float) -> float:
    """Return the share of a core that a worker has while nothing comes."""
    await clear(ground, HOLDFAST.name)
    variables = ground.variables(HOLDFAST.name)
    async with program(ground, "holdfast.worker", HOLDFAST.worker, variables) as worker:
        await asyncio.sleep(5)  # it has started
        before = cpu_seconds(worker)
        await asyncio.sleep(seconds)
        return (cpu_seconds(worker) - before) / seconds
