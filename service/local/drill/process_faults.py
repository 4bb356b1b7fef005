"""Faults of web and worker processes: kills, signals, pauses, fault points, and a rolling restart of all."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from random import Random

from aiohttp import ClientError, ClientSession, ClientTimeout

from service.local.drill.installation import LEASE_SECONDS, Installation, NoEffect, Stuck
from service.local.supervisor import Child

Fault = Callable[[Installation, Random], Awaitable[None]]

_READY_SECONDS = 30
_GRACE_SECONDS = 45  # platforms leave 30, but another fault may pause or hang the process meanwhile


async def end(child: Child, how: signal.Signals) -> None:
    """Send a signal to a process, and wait until the supervisor has replaced it.

    Raises NoEffect where no process runs, and Stuck after more time than platforms leave before SIGKILL.
    """
    before = child.process
    if before is None or before.returncode is not None:
        raise NoEffect
    before.send_signal(how)
    try:
        async with asyncio.timeout(_GRACE_SECONDS):
            while child.process is before:  # noqa: ASYNC110 the supervisor has no event for it
                await asyncio.sleep(0.05)
    except TimeoutError:
        before.kill()
        late = f"{child.program.name} did not end within {_GRACE_SECONDS} s of {how.name}"
        raise Stuck(late) from None


def _end(kind: str, how: signal.Signals) -> Fault:
    async def fault(installation: Installation, chance: Random) -> None:
        await end(_choose(installation, kind, chance), how)

    return fault


def _freeze(kind: str, seconds: float) -> Fault:
    async def fault(installation: Installation, chance: Random) -> None:
        process = _choose(installation, kind, chance).process
        if process is None or process.returncode is not None:
            raise NoEffect
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)

    return fault


def _kill_at(point: str) -> Fault:
    """Kill the first process that reaches a fault point within five seconds."""

    async def fault(installation: Installation, _: Random) -> None:
        armed = installation.fault_points / point
        armed.write_text("kill")
        try:
            for _moment in range(100):
                if not armed.exists():
                    return
                await asyncio.sleep(0.05)
            raise NoEffect
        finally:
            armed.unlink(missing_ok=True)

    return fault


async def _rolling_restart(installation: Installation, _: Random) -> None:
    """Replace all processes one after the other, as a deploy does."""
    for name, child in installation.processes.items():
        with suppress(NoEffect, ProcessLookupError):  # another fault killed it, so it is being replaced
            await end(child, signal.SIGTERM)
        if name.startswith("web."):
            await _wait_until_healthy(installation.webs[int(name.removeprefix("web.")) - 1])


PROCESS_FAULTS: Mapping[str, Fault] = {
    "worker.kill": _end("worker", signal.SIGKILL),
    "worker.term": _end("worker", signal.SIGTERM),
    "worker.freeze": _freeze("worker", LEASE_SECONDS + 2),  # its leases end, and others claim its jobs
    "worker.after-claim": _kill_at("after_claim"),
    "worker.mid-download": _kill_at("mid_download"),
    "worker.after-object": _kill_at("after_object"),
    "worker.after-target": _kill_at("after_target"),
    "web.kill": _end("web", signal.SIGKILL),
    "web.term": _end("web", signal.SIGTERM),
    "web.freeze": _freeze("web", 4),
    "web.after-commit": _kill_at("after_commit"),
    "deploy.rolling": _rolling_restart,
}


def _choose(installation: Installation, kind: str, chance: Random) -> Child:
    names = [name for name in installation.processes if name.startswith(f"{kind}.")]
    return installation.processes[chance.choice(names)]


async def _wait_until_healthy(web: str) -> None:
    async with ClientSession(timeout=ClientTimeout(total=2)) as session:
        for _ in range(_READY_SECONDS * 10):
            with suppress(ClientError, TimeoutError):
                async with session.get(f"{web}/healthz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)
