"""Several web processes on one port: killed, blocked, shut down."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
from aiohttp import ClientSession, TCPConnector

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.web.server.sockets import listening
from tests.conftest import API_TOKEN, ROOT, Client, environment, eventually, program
from tests.support.connections import is_down, is_up
from tests.support.rows import is_waiting_for_a_lock, locked
from tests.support.webhooks import post


@dataclass
class Family:
    """A parent process, its web processes, and a client with a connection per request."""

    parent: asyncio.subprocess.Process
    client: Client

    async def children(self) -> set[int]:
        def look() -> set[int]:
            return {child.pid for child in psutil.Process(self.parent.pid).children() if is_alive(child)}

        return await asyncio.to_thread(look)

    async def answers(self, times: int = 20) -> list[int]:
        return [await self.status() for _ in range(times)]

    async def status(self) -> int:
        async with self.client.session.get(f"{self.client.url}/healthz") as response:
            return response.status


async def alive(processes: set[int]) -> list[int]:
    return await asyncio.to_thread(lambda: [process for process in processes if psutil.pid_exists(process)])


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # ended and reaped since it was listed
        return False


@asynccontextmanager
async def fresh(settings: Settings, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `holdfast web` in a new Python: prometheus_client chooses its storage at import."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "web"), cwd=ROOT, env={**environment(settings), **more}
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def family(settings: Settings, zendesk: Zendesk) -> AsyncIterator[Family]:
    with listening("127.0.0.1", 0) as (free,):
        port = free.getsockname()[1]
    variables = {"HOST": "127.0.0.1", "PORT": str(port), "WEB_CONCURRENCY": "2"}
    async with (
        ClientSession(connector=TCPConnector(force_close=True)) as session,
        fresh(settings, **variables) as parent,
    ):
        family = Family(parent, Client(f"http://127.0.0.1:{port}", session, zendesk))
        await eventually(lambda: is_up(family.client))

        async def all_there() -> bool:
            return len(await family.children()) == 2

        await eventually(all_there)
        try:
            yield family
        finally:
            await end(family)
            await asyncio.to_thread(remove_counters, parent.pid)  # a killed parent leaves the files behind


async def end(family: Family) -> None:
    """Kill all: a stopped process would not notice the end of its parent."""
    children = await family.children() if family.parent.returncode is None else set()
    with suppress(ProcessLookupError):
        family.parent.kill()
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def remove_counters(parent: int) -> None:
    for directory in Path("/dev/shm").glob(f"holdfast-metrics-{parent}-*"):
        shutil.rmtree(directory)


async def test_one_process_answers_while_the_other_hangs(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """Both processes accept from one queue: one healthy process is enough."""
    async with family(settings, zendesk) as both:
        for hanging in await both.children():
            os.kill(hanging, signal.SIGSTOP)
            assert await both.answers() == [200] * 20
            os.kill(hanging, signal.SIGCONT)


async def test_killed_process_is_replaced_and_others_lose_no_request(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with family(settings, zendesk) as both:
        before = await both.children()
        victim = min(before)
        os.kill(victim, signal.SIGSTOP)  # it has no requests from now on

        async def is_back() -> bool:
            assert await both.answers(1) == [200]
            return len(await both.children() - {victim}) == 2

        assert await both.answers() == [200] * 20
        os.kill(victim, signal.SIGKILL)
        await eventually(is_back)
        (survivor,) = before - {victim}
        os.kill(survivor, signal.SIGSTOP)  # only the new one
        assert await both.answers() == [200] * 20


async def test_removed_metrics_directory_costs_no_answer(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with family(settings, zendesk) as both:
        before = await both.children()
        await asyncio.to_thread(remove_counters, both.parent.pid)
        for child in before:
            os.kill(child, signal.SIGKILL)

        async def are_new() -> bool:
            return len(await both.children() - before) == 2

        await eventually(are_new)
        answers = [await both.client.send(zendesk.payload()) for _ in range(10)]

    assert {answer["status"] for answer in answers} == {"accepted"}


async def test_repeated_shutdown_signals_cut_no_answer(
    settings: Settings, zendesk: Zendesk, res: Resources, database_url: str, database: asyncpg.Connection
) -> None:
    """A platform signals every process of a dyno, and the parent signals them again."""
    async with family(settings.model_copy(update={"database_seconds": 15.0}), zendesk) as both:
        children = await both.children()
        async with locked(database_url):
            answering = asyncio.create_task(post(both.client, zendesk.payload()))

            await eventually(lambda: is_waiting_for_a_lock(database))
            for process in (*children, both.parent.pid):
                os.kill(process, signal.SIGTERM)
            await eventually(lambda: is_down(both.client))
            assert not answering.done()
        answer = await answering
        code = await asyncio.wait_for(both.parent.wait(), 25)

    assert answer.json()["status"] == "accepted"
    assert code == 0
    assert not await alive(children)


async def test_processes_end_with_a_killed_parent(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with family(settings, zendesk) as both:
        children = await both.children()
        both.parent.kill()
        await both.parent.wait()

        async def nobody() -> bool:
            return not await alive(children)

        await eventually(nobody)
    assert children


async def test_metrics_are_summed_over_all_processes(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with family(settings, zendesk) as both:
        for hanging in await both.children():
            os.kill(hanging, signal.SIGSTOP)
            await both.client.send(zendesk.payload(), headers={"Connection": "close"})
            async with both.client.session.get(
                f"{both.client.url}/metrics", headers={"Authorization": f"Bearer {API_TOKEN}"}
            ) as response:
                text = await response.text()
            os.kill(hanging, signal.SIGCONT)

    assert 'holdfast_webhooks_total{outcome="accepted"} 2.0' in text
    assert 'holdfast_emails{status="completed"} 0.0' in text
    assert text.count("holdfast_oldest_waiting_seconds ") == 3  # HELP, TYPE and the value


async def test_gauges_leave_out_dead_processes(settings: Settings, zendesk: Zendesk, res: Resources) -> None:
    async with family(settings, zendesk) as both:

        async def connections() -> float:
            async with both.client.session.get(f"{both.client.url}/metrics") as response:
                found = re.search(r"^holdfast_database_pool_size (.*)$", await response.text(), re.MULTILINE)
            return float(found[1]) if found else 0

        async def are_of_two() -> bool:
            return await connections() == 2 * settings.database_pool_size

        await eventually(are_of_two)
        before = await both.children()
        os.kill(min(before), signal.SIGKILL)

        async def is_back() -> bool:
            return len(await both.children() - before) == 1

        await eventually(is_back)
        await eventually(are_of_two)


def keep_running(serve: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run two processes of a `serve` with this body."""
    code = (
        "import os, signal, sys\nfrom service.web.server.prefork import keep_running\n"
        f"def serve(parent):\n    {serve}\nkeep_running(serve, 2, [])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_failed_start_is_not_repeated() -> None:
    done = keep_running("raise OSError('no more of it')")

    assert done.returncode == 1
    assert "no more of it" in done.stdout
    assert done.stdout.count("web_process_started") == 2


def test_repeatedly_dying_process_restarts_with_growing_pauses(tmp_path: Path) -> None:
    """Each process leaves a mark; the sixth one ends the parent."""
    leave_a_mark = "with open(sys.argv[1], 'a') as marks: marks.write('.'); born = marks.tell()"
    done = keep_running(
        f"{leave_a_mark}\n    os._exit(7) if born < 6 else os.kill(os.getppid(), signal.SIGTERM)",
        str(tmp_path / "marks"),
    )

    assert done.returncode == 0
    assert "how='exit code 7'" in done.stdout
    assert re.findall(r"next_in_seconds=([\d.]+)", done.stdout)[:4] == ["0.5", "0.5", "1.0", "1.0"]


async def test_connection_before_the_imports_is_answered(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    with listening("127.0.0.1", 0) as (free,):
        port = free.getsockname()[1]
    async with program("service", "web", settings=settings, HOST="127.0.0.1", PORT=str(port)):

        async def connected() -> socket.socket | None:
            with suppress(OSError):
                return await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port))
            return None

        early = await eventually(connected)
        with early:
            early.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(early, b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            answer = await loop.sock_recv(early, 4096)

    assert re.match(rb"HTTP/1.1 200 ", answer)
