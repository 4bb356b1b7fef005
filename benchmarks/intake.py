"""Intake: the webhooks a second that one web process accepts, and the time of an answer at half that rate."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.checks import check_record, settle
from benchmarks.load import (
    CONNECTIONS,
    LoadResult,
    PeakResult,
    check_wrk,
    send_as_fast_as_possible,
    send_at_rate,
)
from benchmarks.results import Section, at_least, below, ratio, spread
from benchmarks.services import Service, prepare
from benchmarks.testbed import CpuTime, Testbed, clear, cpu_time, python, web
from benchmarks.webhooks import BODY_BYTES, Webhooks, write_webhooks

CEILING, LIMIT = "ceiling", "limit"
_MOST_PER_SECOND = 18_000  # above the ceiling
_WARM_SECONDS = 1
# They save nothing.
_COMMANDS = {name: python("-m", f"benchmarks.contenders.{name}_web") for name in (CEILING, LIMIT)}
LIMIT_COMMAND = _COMMANDS[LIMIT]


_TITLES = {
    CEILING: "ceiling: a bare uvloop protocol that verifies and parses",
    LIMIT: "limit: aiohttp that verifies and parses",
    "holdfast": "**Holdfast**",
    "simple": "one by one: aiohttp, async SQLAlchemy, arq",
    "usual": "the usual: FastAPI, SQLAlchemy, Dramatiq",
}
_HEADER = (
    *("", "webhooks/s, of the limit", "of Holdfast", "processor time, of the limit"),
    *("user µs", "system µs", "p50 ms", "p99 ms"),
)
_ABOUT = f"""wrk sends signed webhooks of {BODY_BYTES:,} bytes, all different, on {CONNECTIONS} connections to one web process; no worker
runs. Then half as many a second arrive at random times: p50 and p99 are the time from the planned moment of a webhook
to its answer. All services verify the signature and parse the payload with the same functions. The ceiling and the limit
save, log and count nothing; Holdfast logs a line for each webhook to a file, as by default. Processor time is that of the
web process for one webhook. After each load the rows in Postgres were compared with the acknowledged webhooks."""


@dataclass(frozen=True)
class IntakeResult:
    """The figures of one service in one round."""

    per_second: float
    cpu: CpuTime  # of the web process for each webhook
    p50: float  # seconds, at half of per_second
    p99: float


async def run(testbed: Testbed, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure this part, and return its section."""
    results = await measure(testbed, await prepare(testbed), rounds=rounds, seconds=1 if quick else 6)
    rows = [
        (
            title,
            ratio(_speeds(results[name]), _speeds(results[LIMIT])),
            ratio(_speeds(results[name]), _speeds(results["holdfast"])),
            ratio(_cpu(results[name]), _cpu(results[LIMIT])),
            spread(t.cpu.user * 1e6 for t in results[name]),
            spread(t.cpu.system * 1e6 for t in results[name]),
            spread(t.p50 * 1000 for t in results[name]),
            spread(t.p99 * 1000 for t in results[name]),
        )
        for name, title in _TITLES.items()
        if name in results
    ]
    holdfast = results["holdfast"]
    aims = (
        at_least(0.7, "of the limit", ratio(_speeds(holdfast), _speeds(results[LIMIT]))),
        at_least(8.5, "times one by one", ratio(_speeds(holdfast), _speeds(results["simple"]))),
        below(1.35, "of the limit: processor time", ratio(_cpu(holdfast), _cpu(results[LIMIT]))),
        below(50, "ms: p99 at half load", spread(t.p99 * 1000 for t in holdfast)),
    )
    return Section("Intake", _ABOUT, _HEADER, rows, aims)


async def measure(
    testbed: Testbed, services: Sequence[Service], *, rounds: int, seconds: float
) -> dict[str, list[IntakeResult]]:
    """Measure the ceiling, the limit and each service once in each round."""
    check_wrk()
    webhooks = await asyncio.to_thread(
        write_webhooks,
        testbed.directory / "webhooks",
        range(int(_MOST_PER_SECOND * seconds)),
        lambda number: f"http://127.0.0.1:9/file/{number:07}",
    )
    results: dict[str, list[IntakeResult]] = {name: [] for name in (*_COMMANDS, *(c.name for c in services))}
    for _ in range(rounds):
        for name in _COMMANDS:
            results[name].append(await _turn(testbed, name, None, webhooks, seconds))
        for service in services:
            results[service.name].append(await _turn(testbed, service.name, service, webhooks, seconds))
    return results


async def _turn(
    testbed: Testbed, name: str, service: Service | None, webhooks: Webhooks, seconds: float
) -> IntakeResult:
    command = service.web if service else _COMMANDS[name]
    async with web(testbed, f"{name}.web", command, testbed.variables(name, LOG_LEVEL="INFO")) as server:
        await send_as_fast_as_possible(server.port, webhooks, _WARM_SECONDS)
        await _clear(testbed, service)
        before = cpu_time(server.process)
        peak = await send_as_fast_as_possible(server.port, webhooks, seconds)
        after = cpu_time(server.process)
        await _check(testbed, service, peak)
        await _clear(testbed, service)
        rate = peak.per_second / 2
        requests = await asyncio.to_thread(webhooks.read, 0, int(rate * seconds))
        load = await send_at_rate(server.port, requests, rate)
        await _check(testbed, service, load)
    cpu = CpuTime(*((b - a) / peak.acknowledged for a, b in zip(before, after, strict=True)))
    return IntakeResult(peak.per_second, cpu, load.percentile(50), load.percentile(99))


async def _clear(testbed: Testbed, service: Service | None) -> None:
    if service:
        await settle(testbed, service.name)
        await clear(testbed, service.name)


async def _check(testbed: Testbed, service: Service | None, load: PeakResult | LoadResult) -> None:
    # When wrk stops, requests under way may be saved without an acknowledgement.
    under_way = CONNECTIONS if isinstance(load, PeakResult) else 0
    if service:
        await check_record(testbed, service.name, load.acknowledged, under_way)


def _cpu(results: Sequence[IntakeResult]) -> list[float]:
    return [sum(one.cpu) for one in results]


def _speeds(results: Sequence[IntakeResult]) -> list[float]:
    return [one.per_second for one in results]
