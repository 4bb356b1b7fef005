"""Pick-up: the time until a worker starts an e-mail, and the processor time of an idle worker."""

import asyncio
from dataclasses import dataclass

from benchmarks.checks import fetch_row, wait_until
from benchmarks.load import send_at_rate
from benchmarks.results import Section, below, spread
from benchmarks.services import HOLDFAST, prepare
from benchmarks.testbed import Testbed, clear, cpu_seconds, program, web
from benchmarks.webhooks import Address, write_webhooks
from benchmarks.work import serve_files

PER_SECOND = 50
SLOW = 50
_SMALL_BYTES = 1_000
_LONGER_SECONDS = 5  # a slow file takes this much longer than the measurement
_UNDER_WAY = 20  # slow downloads before the measurement; a worker's default limit
_FIRST_SLOW = 500_000  # the number of the first slow e-mail

_HEADER = ("", "p50 ms", "p99 ms")
_ABOUT = f"""{PER_SECOND} e-mails a second arrive at one web process at random moments, each with a file of {_SMALL_BYTES:,} bytes, for one idle
worker. The time runs from `received_at` to `started_at` in Postgres. Then the same while {SLOW} e-mails are being processed
whose files arrive at a byte a second. The share of a core is that of an idle worker. Each e-mail was started, and without
slow ones beside it `completed`."""


@dataclass(frozen=True)
class PickupResult:
    """Milliseconds from receipt to start."""

    p50: float
    p99: float


async def run(testbed: Testbed, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure this part, and return its section."""
    await prepare(testbed)
    seconds = 3 if quick else 10
    alone, beside, idle = [], [], []
    for _ in range(rounds):
        alone.append(await _measure_pickup(testbed, seconds, slow=0))
        beside.append(await _measure_pickup(testbed, seconds, slow=SLOW))
        idle.append(await _measure_idle(testbed, 3 if quick else 20))
    rows = [
        (name, spread(w.p50 for w in waited), spread(w.p99 for w in waited))
        for name, waited in (("alone", alone), (f"beside {SLOW} slow ones", beside))
    ]
    aims = []
    for name, waited in (("alone", alone), (f"beside {SLOW} slow ones", beside)):
        aims.append(below(10, f"ms: p50 {name}", spread(w.p50 for w in waited)))
        aims.append(below(50, f"ms: p99 {name}", spread(w.p99 for w in waited)))
    aims.append(below(2, "% of a core while idle", spread(share * 100 for share in idle)))
    return Section("Pick-up", _ABOUT, _HEADER, rows, aims)


async def _measure_pickup(testbed: Testbed, seconds: int, *, slow: int) -> PickupResult:
    """Measure the pick-up of e-mails by a worker that processes `slow` slow ones."""
    await clear(testbed, HOLDFAST.name)
    variables = testbed.variables(HOLDFAST.name)
    async with (
        serve_files(testbed, _SMALL_BYTES) as files,
        web(testbed, "holdfast.web", HOLDFAST.web, variables) as server,
        program(testbed, "holdfast.worker", HOLDFAST.worker, variables) as worker,
    ):
        length = seconds + _LONGER_SECONDS
        address = f"http://127.0.0.1:{files.port}/slow/{{}}/{length}".format
        if slow:
            numbers = range(_FIRST_SLOW, _FIRST_SLOW + slow)
            await send_at_rate(server.port, await _requests(testbed, address, numbers, length), float("inf"))
        # One more e-mail first, because a worker that just started is slower.
        await send_at_rate(
            server.port, await _requests(testbed, files.address, range(1), files.size), float("inf")
        )
        started = f"count(started_at) FILTER (WHERE id <= {slow}) >= {min(slow, _UNDER_WAY)}"
        await wait_until(testbed, HOLDFAST.name, worker, f"{started} AND count(started_at) > 0")
        (before,) = await fetch_row(testbed, HOLDFAST.name, "SELECT max(id) FROM incoming_emails")
        numbers = range(1, 1 + seconds * PER_SECOND)
        await send_at_rate(
            server.port, await _requests(testbed, files.address, numbers, files.size), PER_SECOND
        )
        reached = "started_at" if slow else "completed_at"
        all_of_them = f"count({reached}) FILTER (WHERE id > {before}) = {len(numbers)}"
        await wait_until(testbed, HOLDFAST.name, worker, all_of_them)
        query = (
            "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP"
            " (ORDER BY extract(epoch FROM started_at - received_at) * 1000)"
            " FROM incoming_emails WHERE id > $1"
        )
        ((p50, p99),) = await fetch_row(testbed, HOLDFAST.name, query, before)
    return PickupResult(p50, p99)


async def _requests(testbed: Testbed, address: Address, numbers: range, file_bytes: int) -> list[bytes]:
    webhooks = await asyncio.to_thread(
        write_webhooks, testbed.directory / "emails", numbers, address, file_bytes=file_bytes
    )
    return await asyncio.to_thread(webhooks.read, 0, len(numbers))


async def _measure_idle(testbed: Testbed, seconds: float) -> float:
    """Return the share of a core that an idle worker uses."""
    await clear(testbed, HOLDFAST.name)
    variables = testbed.variables(HOLDFAST.name)
    async with program(testbed, "holdfast.worker", HOLDFAST.worker, variables) as worker:
        await asyncio.sleep(5)  # for its start
        before = cpu_seconds(worker)
        await asyncio.sleep(seconds)
        return (cpu_seconds(worker) - before) / seconds
