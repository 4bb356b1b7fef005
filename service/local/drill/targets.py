"""Faults of the sync's targets: killed, away, late, silent, and cut off between a write and its answer."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from random import Random

from service.local.drill import processes
from service.local.drill.ground import Ground
from service.local.drill.receiving import COLLECTION, RECEIVER, SYNC_SECONDS

AWAY_SECONDS = 15
# What only a write holds: a command in BSON, and the beginning of a message.
_WRITES = {COLLECTION: b"\x02update\x00", RECEIVER: b'{"type":"email.'}


async def _kill(ground: Ground, chance: Random) -> None:
    await _end(ground, chance, signal.SIGKILL)


async def _restart(ground: Ground, chance: Random) -> None:
    await _end(ground, chance, signal.SIGTERM)


async def _end(ground: Ground, chance: Random, how: signal.Signals) -> None:
    names = _some(ground, chance)
    await asyncio.gather(*(processes.end(ground.servers[name], how) for name in names))


async def _away(ground: Ground, chance: Random) -> None:
    """Refuse every connection, for longer than any attempt lasts."""
    names = _some(ground, chance)
    for name in names:
        ground.targets[name].cut()
    await _undo(ground, names, AWAY_SECONDS)


async def _slow(ground: Ground, chance: Random) -> None:
    """Have each answer come when nobody waits for it any more."""
    names = _some(ground, chance)
    for name in names:
        ground.targets[name].delay = SYNC_SECONDS + 1
    await _undo(ground, names, SYNC_SECONDS * 2)


async def _frozen(ground: Ground, chance: Random) -> None:
    names = _some(ground, chance)
    for name in names:
        ground.targets[name].freeze()
    await _undo(ground, names, SYNC_SECONDS * 2)


async def _undo(ground: Ground, names: list[str], seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        for name in names:
            await ground.targets[name].resume()


async def _unknown(ground: Ground, chance: Random) -> None:
    """Cut the connection of a write: after the target got it and before it could say so, or before it got it."""
    name = chance.choice([*ground.targets])
    proxy = ground.targets[name]
    proxy.trip(_WRITES[name], arrives=chance.random() < 0.8, cuts=False)
    try:
        await asyncio.wait_for(proxy.sprung.wait(), 5)
    finally:
        proxy.disarm()


FAULTS: Mapping[str, Callable[[Ground, Random], Awaitable[None]]] = {
    "target.kill": _kill,
    "target.restart": _restart,
    "target.away": _away,
    "target.slow": _slow,
    "target.frozen": _frozen,
    "target.unknown": _unknown,
}


def _some(ground: Ground, chance: Random) -> list[str]:
    """Choose one of the targets, or all of them."""
    names = [*ground.targets]
    return chance.choice([names, *([name] for name in names)])
