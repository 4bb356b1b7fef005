"""Faults of web and worker processes: killed, told to end, paused, and all of them replaced one by one."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from random import Random

from aiohttp import ClientError, ClientSession, ClientTimeout

from service.local.drill.ground import LEASE_SECONDS, Ground, Missed, Stubborn
from service.local.supervisor import Child

_READY_SECONDS = 30
_GRACE_SECONDS = 45  # platforms leave 30; but one may be paused or hung by another fault meanwhile


async def end(child: Child, how: signal.Signals) -> None:
    """Send a signal to a process, and wait until it is gone and another one runs in its place.

    Raises Missed, and Stubborn after what platforms leave a process before they kill it.
    """
    before = child.process
    if before is None or before.returncode is not None:
        raise Missed
    before.send_signal(how)
    try:
        async with asyncio.timeout(_GRACE_SECONDS):
            while child.process is before:  # noqa: ASYNC110 the supervisor replaces it, and tells nobody
                await asyncio.sleep(0.05)
    except TimeoutError:
        before.kill()
        late = f"{child.program.name} did not end within {_GRACE_SECONDS} s of {how.name}"
        raise Stubborn(late) from None


async def _worker_kill(ground: Ground, chance: Random) -> None:
    await end(_some(ground, "worker", chance), signal.SIGKILL)


async def _worker_term(ground: Ground, chance: Random) -> None:
    await end(_some(ground, "worker", chance), signal.SIGTERM)


async def _web_kill(ground: Ground, chance: Random) -> None:
    await end(_some(ground, "web", chance), signal.SIGKILL)


async def _web_term(ground: Ground, chance: Random) -> None:
    await end(_some(ground, "web", chance), signal.SIGTERM)


async def _worker_freeze(ground: Ground, chance: Random) -> None:
    """Pause a worker until its leases have run out, others have its jobs, and then wake it up."""
    await _freeze(_some(ground, "worker", chance), LEASE_SECONDS + 2)


async def _web_freeze(ground: Ground, chance: Random) -> None:
    await _freeze(_some(ground, "web", chance), 4)


async def _freeze(child: Child, seconds: float) -> None:
    process = child.process
    if process is None or process.returncode is not None:
        raise Missed
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)


async def _deploy(ground: Ground, _: Random) -> None:
    """Replace every process by a new one, one after the other, as a rolling restart does."""
    for name, child in ground.processes.items():
        with suppress(Missed, ProcessLookupError):  # killed just now: it is replaced anyway
            await end(child, signal.SIGTERM)
        if name.startswith("web."):
            await _until_it_answers(ground.webs[int(name.removeprefix("web.")) - 1])


def _fall_at(point: str) -> Callable[[Ground, Random], Awaitable[None]]:
    async def harm(ground: Ground, _: Random) -> None:
        armed = ground.fault_points / point
        armed.write_text("kill")
        try:
            for _moment in range(100):
                if not armed.exists():
                    return
                await asyncio.sleep(0.05)
            raise Missed
        finally:
            armed.unlink(missing_ok=True)

    return harm


FAULTS: Mapping[str, Callable[[Ground, Random], Awaitable[None]]] = {
    "worker.kill": _worker_kill,
    "worker.term": _worker_term,
    "worker.freeze": _worker_freeze,
    "worker.after-claim": _fall_at("after_claim"),
    "worker.mid-download": _fall_at("mid_download"),
    "worker.after-object": _fall_at("after_object"),
    "worker.after-target": _fall_at("after_target"),
    "web.kill": _web_kill,
    "web.term": _web_term,
    "web.freeze": _web_freeze,
    "web.after-commit": _fall_at("after_commit"),
    "deploy.rolling": _deploy,
}


def _some(ground: Ground, kind: str, chance: Random) -> Child:
    return ground.processes[chance.choice([name for name in ground.processes if name.startswith(f"{kind}.")])]


async def _until_it_answers(web: str) -> None:
    async with ClientSession(timeout=ClientTimeout(total=2)) as session:
        for _ in range(_READY_SECONDS * 10):
            with suppress(ClientError, TimeoutError):
                async with session.get(f"{web}/healthz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)
