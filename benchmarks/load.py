"""Load on a web process: as fast as it answers (by wrk), or at a fixed rate whatever the answers."""

import asyncio
import json
import random
import re
import shutil
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks.testbed import MeasurementError
from benchmarks.webhooks import Webhooks

CONNECTIONS = 64
_ANSWER_SECONDS = 30
_LATE_SECONDS = 120
_SCRIPT = Path(__file__).with_name("wrk.lua")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class PeakResult:
    """The result of sending as fast as possible."""

    acknowledged: int
    per_second: float


@dataclass(frozen=True)
class LoadResult:
    """The result of sending at a rate: the seconds from each webhook's planned moment to its answer."""

    acknowledged: int
    seconds: list[float]

    def percentile(self, percent: float) -> float:
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(len(self.seconds) * percent / 100))]


def check_wrk() -> None:
    if shutil.which("wrk") is None:
        raise MeasurementError("wrk is not installed: apt-get install wrk")


async def fetch(url: str, connections: int, seconds: int) -> float:
    """Return the requests a second that wrk gets answered."""
    check_wrk()
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", url]
    wrk = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await wrk.communicate()
    return float(output.partition(b"Requests/sec:")[2].split()[0])


async def send_as_fast_as_possible(
    port: int, webhooks: Webhooks, seconds: float, *, first: int = 0
) -> PeakResult:
    """Send each webhook once, on 64 connections, as fast as the answers arrive."""
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds:.0f}s"]
    command += ["--timeout", f"{_ANSWER_SECONDS}s", "--script", str(_SCRIPT), f"http://127.0.0.1:{port}"]
    command += ["--", str(webhooks.path), str(webhooks.size), str(first)]
    wrk = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await wrk.communicate()
    result = json.loads(output.decode().rstrip().rpartition("\n")[2])
    if result["refused"] or result["broken"] or wrk.returncode:
        raise MeasurementError(f"not every webhook was acknowledged: {result}")
    return PeakResult(result["requests"], result["requests"] / result["microseconds"] * 1e6)


async def send_at_rate(port: int, requests: list[bytes], per_second: float) -> LoadResult:
    """Send at random moments with this average rate, without waiting for answers."""
    async with asyncio.timeout(len(requests) / per_second + _LATE_SECONDS):
        load = await _send_at_rate(port, requests, per_second)
    if load.acknowledged != len(requests):
        raise MeasurementError(
            f"{len(requests) - load.acknowledged} of {len(requests)} webhooks were not acknowledged"
        )
    return load


async def _send_at_rate(port: int, requests: list[bytes], per_second: float) -> LoadResult:
    loop = asyncio.get_running_loop()
    chance = random.Random(1)  # noqa: S311 the same moments in each run
    idle: asyncio.Queue[_Connection] = asyncio.Queue()
    connections = [
        (await loop.create_connection(lambda: _Connection(idle), "127.0.0.1", port))[1]
        for _ in range(CONNECTIONS)
    ]
    for connection in connections:
        idle.put_nowait(connection)
    due = time.perf_counter()
    for request in requests:
        due += chance.expovariate(per_second)
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        connection = await idle.get()
        connection.send(request, due)
    for _ in connections:  # wait for the last answers
        await idle.get()
    for connection in connections:
        connection.close()
    answers = [answer for connection in connections for answer in connection.answers]
    acknowledged = sum(status.startswith(b"2") for status, _ in answers)
    return LoadResult(acknowledged, [seconds for _, seconds in answers])


class _Connection(asyncio.Protocol):
    """A connection with one request at a time."""

    def __init__(self, idle: "asyncio.Queue[_Connection]") -> None:
        self.answers: deque[tuple[bytes, float]] = deque()
        self._idle = idle
        self._due = 0.0
        self._answer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def send(self, request: bytes, due: float) -> None:
        assert self._transport  # noqa: S101 an idle connection is open
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            self.answers.append((head[9:12], time.perf_counter() - self._due))
            self._answer = b""
            self._idle.put_nowait(self)

    def close(self) -> None:
        if self._transport:
            self._transport.close()
