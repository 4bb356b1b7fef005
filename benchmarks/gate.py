"""The gate: compare the processor time of web and worker, as ratios to a limit, with the recorded ratios.

Both sides of a ratio run in turns on the same machine, so that a slow or busy one changes it little. (A bare loop of
downloads, the limit of "Work", needs between 0.14 and 1.2 ms a file where other programs write.) A change that
makes Holdfast faster or slower on purpose records new ratios: `python -m benchmarks record`.
"""

import asyncio
import statistics
import time
import tomllib
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

from benchmarks.checks import check_record, check_work, settle, wait_until
from benchmarks.intake import LIMIT, LIMIT_COMMAND
from benchmarks.load import send_at_rate
from benchmarks.services import HOLDFAST
from benchmarks.testbed import MeasurementError, Testbed, Web, clear, make_database, program, web
from benchmarks.webhooks import Webhooks, write_webhooks
from benchmarks.work import serve_files

RECORDED = Path(__file__).with_name("recorded.toml")
# The most that a measured ratio may exceed the recorded one, which was measured on a quiet machine. With five other
# programs on two processors, batches are smaller: a worker needed up to 1.7 times as much for an e-mail.
ROOM = {"web": 1.5, "worker": 2.0}
TURNS = 5
# On a busy machine a single measurement may be wrong.
_ATTEMPTS = 3
_WEBHOOKS = 400  # in a turn
_EMAILS = 100  # in a turn
_REPEATED = 4  # the limit gets each webhook of a worker's turn so often
# The time for larger files depends on what other programs write to the disk.
_FILE_BYTES = 1_000
_WARM = 2  # turns that are not counted
_HEAD = """# Processor time of Holdfast as a multiple of a limit: `python -m benchmarks record` writes this file.
# web: of a web process for a webhook; the limit is a web process that verifies, parses and drops it.
# worker: of a worker for an e-mail with a file of 1 kB, as a multiple of the same.
"""

Measure = Callable[[Testbed, int], Awaitable[float]]


async def check(testbed: Testbed, turns: int = TURNS) -> None:
    """Raise MeasurementError if a ratio exceeds the recorded one by more than the room for noise."""
    await _prepare(testbed)
    for name, recorded in read_recorded().items():
        measured = []
        for _ in range(_ATTEMPTS):
            measured.append(await _MEASURES[name](testbed, turns))
            if is_within(name, recorded, measured[-1]):
                break
        else:
            raise MeasurementError(too_slow(name, recorded, min(measured)))


async def record(testbed: Testbed, turns: int) -> str:
    """Measure the ratios, write them, and return the file's text."""
    await _prepare(testbed)
    ratios = {name: await measure(testbed, turns) for name, measure in _MEASURES.items()}
    text = _HEAD + "".join(f"{name} = {ratio:.2f}\n" for name, ratio in ratios.items())
    await asyncio.to_thread(RECORDED.write_text, text)
    return text


def read_recorded() -> Mapping[str, float]:
    return {name: float(ratio) for name, ratio in tomllib.loads(RECORDED.read_text()).items()}


def is_within(name: str, recorded: float, measured: float) -> bool:
    return measured <= recorded * ROOM[name]


def too_slow(name: str, recorded: float, measured: float) -> str:
    return (
        f"{name} needs {measured:.2f} times the processor time of the limit, and {recorded:.2f} times is recorded in"
        f" {RECORDED.name}. Find out why; if this is on purpose, run `python -m benchmarks record`."
    )


async def _prepare(testbed: Testbed) -> None:
    await make_database(testbed, HOLDFAST.name, *HOLDFAST.tables)
    await clear(testbed, HOLDFAST.name)


async def _web(testbed: Testbed, turns: int) -> float:
    """Return the ratio of a web process to the limit, which gets the same webhooks in turns; no worker runs."""
    webhooks = await _webhooks(
        testbed, (turns + _WARM) * _WEBHOOKS, lambda n: f"http://127.0.0.1:9/file/{n:07}"
    )
    async with _limit(testbed) as limit, _web_process(testbed) as server:
        ratios = []
        for turn in range(turns + _WARM):
            requests = await asyncio.to_thread(webhooks.read, turn * _WEBHOOKS, _WEBHOOKS)
            ours = await _spent_on(server, requests)
            ratios.append(ours / await _spent_on(limit, requests))
        await settle(testbed, HOLDFAST.name)
        await check_record(testbed, HOLDFAST.name, (turns + _WARM) * _WEBHOOKS, 0)
    await clear(testbed, HOLDFAST.name)
    return statistics.median(ratios[_WARM:])


async def _worker(testbed: Testbed, turns: int) -> float:
    """Return the ratio of a worker, for an e-mail, to the limit of the web process, for a webhook, in turns."""
    async with AsyncExitStack() as stack:
        files = await stack.enter_async_context(serve_files(testbed, _FILE_BYTES))
        webhooks = await _webhooks(testbed, (turns + _WARM) * _EMAILS, files.address)
        limit = await stack.enter_async_context(_limit(testbed))
        server = await stack.enter_async_context(_web_process(testbed))
        variables = testbed.variables(HOLDFAST.name)
        worker = await stack.enter_async_context(
            program(testbed, f"{HOLDFAST.name}.worker", HOLDFAST.worker, variables)
        )
        ratios = []
        for turn in range(turns + _WARM):
            requests = await asyncio.to_thread(webhooks.read, turn * _EMAILS, _EMAILS)
            before = _processor_seconds(worker)
            await send_at_rate(server.port, requests, float("inf"))
            await wait_until(testbed, HOLDFAST.name, worker, "count(completed_at) = count(*)")
            ours = _processor_seconds(worker) - before
            ratios.append(ours / await _spent_on(limit, requests * _REPEATED) * _REPEATED)
        await check_work(testbed, HOLDFAST.name, (turns + _WARM) * _EMAILS, _FILE_BYTES)
    await clear(testbed, HOLDFAST.name)
    return statistics.median(ratios[_WARM:])


_MEASURES: Mapping[str, Measure] = {"web": _web, "worker": _worker}


async def _webhooks(testbed: Testbed, count: int, address: Callable[[int], str]) -> Webhooks:
    path = testbed.directory / "webhooks"
    return await asyncio.to_thread(write_webhooks, path, range(count), address, file_bytes=_FILE_BYTES)


def _limit(testbed: Testbed) -> AbstractAsyncContextManager[Web]:
    return web(testbed, f"{LIMIT}.web", LIMIT_COMMAND, testbed.variables(LIMIT))


def _web_process(testbed: Testbed) -> AbstractAsyncContextManager[Web]:
    return web(testbed, f"{HOLDFAST.name}.web", HOLDFAST.web, testbed.variables(HOLDFAST.name))


async def _spent_on(server: Web, requests: list[bytes]) -> float:
    before = _processor_seconds(server.process)
    await send_at_rate(server.port, requests, float("inf"))
    return _processor_seconds(server.process) - before


def _processor_seconds(process: Process) -> float:
    """Return the processor time of a process in nanoseconds' resolution; /proc has hundredths of a second."""
    return time.clock_gettime(~process.pid << 3 | 2)  # as clock_getcpuclockid(3) makes it
