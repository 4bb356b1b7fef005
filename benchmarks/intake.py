"""Intake: how many webhooks a second one web process takes, and how long an answer takes at half of that."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.checks import check_record, settle
from benchmarks.field import Contender, prepare
from benchmarks.ground import Ground, clear, cpu_seconds, python, web
from benchmarks.load import CONNECTIONS, Paced, Peak, check_wrk, pace, push
from benchmarks.results import Section, at_least, below, ratio, spread
from benchmarks.webhooks import BODY_BYTES, Webhooks, write_webhooks

LIMIT = "limit"
_MOST_PER_SECOND = 12_000
_WARM_SECONDS = 1
_LIMIT_COMMAND = python("-m", "benchmarks.contenders.limit_web")


_TITLES = {
    LIMIT: "limit: aiohttp that checks, reads and forgets",
    "holdfast": "**Holdfast**",
    "simple": "one by one: aiohttp, async SQLAlchemy, arq",
    "usual": "the usual: FastAPI, SQLAlchemy, Dramatiq",
}
_HEADER = ("", "webhooks/s, of the limit", "of Holdfast", "processor time, of the limit", "p50 ms", "p99 ms")
_ABOUT = f"""Signed webhooks of {BODY_BYTES:,} bytes, each another one, on {CONNECTIONS} connections from wrk into one web process; no
worker runs. Then half as many a second as that, at random moments: p50 and p99 are of the time from when a webhook
was due until its answer. All check the signature and read the payload by the same functions. After each load the
rows in Postgres were compared with what was acknowledged."""


@dataclass(frozen=True)
class Taken:
    """What one contender did in one round."""

    per_second: float
    cpu: float  # seconds of the web process for each webhook
    p50: float  # seconds, at half of per_second
    p99: float


async def run(ground: Ground, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure, and put it into words."""
    taken = await measure(ground, await prepare(ground), rounds=rounds, seconds=1 if quick else 6)
    rows = [
        (
            title,
            ratio(_speeds(taken[name]), _speeds(taken[LIMIT])),
            ratio(_speeds(taken[name]), _speeds(taken["holdfast"])),
            ratio([t.cpu for t in taken[name]], [t.cpu for t in taken[LIMIT]]),
            spread(t.p50 * 1000 for t in taken[name]),
            spread(t.p99 * 1000 for t in taken[name]),
        )
        for name, title in _TITLES.items()
        if name in taken
    ]
    holdfast = taken["holdfast"]
    aims = (
        at_least(0.6, "of the limit", ratio(_speeds(holdfast), _speeds(taken[LIMIT]))),
        at_least(12, "times one by one", ratio(_speeds(holdfast), _speeds(taken["simple"]))),
        below(50, "ms: p99 at half load", spread(t.p99 * 1000 for t in holdfast)),
    )
    return Section("Intake", _ABOUT, _HEADER, rows, aims)


async def measure(
    ground: Ground, contenders: Sequence[Contender], *, rounds: int, seconds: float
) -> dict[str, list[Taken]]:
    """Give each contender, and the limit, its turn in each round."""
    check_wrk()
    webhooks = await asyncio.to_thread(
        write_webhooks,
        ground.directory / "webhooks",
        range(int(_MOST_PER_SECOND * seconds)),
        lambda number: f"http://127.0.0.1:9/file/{number:07}",
    )
    taken: dict[str, list[Taken]] = {name: [] for name in (LIMIT, *(c.name for c in contenders))}
    for _ in range(rounds):
        taken[LIMIT].append(await _turn(ground, None, webhooks, seconds))
        for contender in contenders:
            taken[contender.name].append(await _turn(ground, contender, webhooks, seconds))
    return taken


async def _turn(ground: Ground, contender: Contender | None, webhooks: Webhooks, seconds: float) -> Taken:
    name = contender.name if contender else LIMIT
    command = contender.web if contender else _LIMIT_COMMAND
    async with web(ground, f"{name}.web", command, ground.variables(name)) as server:
        await push(server.port, webhooks, _WARM_SECONDS)
        await _clear(ground, contender)
        before = cpu_seconds(server.process)
        peak = await push(server.port, webhooks, seconds)
        cpu = (cpu_seconds(server.process) - before) / peak.acknowledged
        await _check(ground, contender, peak)
        await _clear(ground, contender)
        rate = peak.per_second / 2
        requests = await asyncio.to_thread(webhooks.read, 0, int(rate * seconds))
        paced = await pace(server.port, requests, rate)
        await _check(ground, contender, paced)
    return Taken(peak.per_second, cpu, paced.percentile(50), paced.percentile(99))


async def _clear(ground: Ground, contender: Contender | None) -> None:
    if contender:
        await settle(ground, contender.name)
        await clear(ground, contender.name)


async def _check(ground: Ground, contender: Contender | None, load: Peak | Paced) -> None:
    # Where wrk stops, what is under way may be on record, and was acknowledged to nobody.
    under_way = CONNECTIONS if isinstance(load, Peak) else 0
    if contender:
        await check_record(ground, contender.name, load.acknowledged, under_way)


def _speeds(taken: Sequence[Taken]) -> list[float]:
    return [one.per_second for one in taken]
