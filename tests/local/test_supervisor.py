"""The supervisor restarts its children when they die, and leaves none behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, linux, processes, wait_for

_SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
from service.local.signals import run_until_told
from service.local.supervisor import Program, supervise

def program(name):
    return Program(name, [sys.executable, "-c", sys.argv[1], name, sys.argv[2]], os.environ, Path.cwd())

async def main(hurry):
    stages = [[program("web")], [program("worker.1"), program("worker.2")]]
    async with supervise(stages, lambda name, line: print(name, line, flush=True), hurry):
        await asyncio.Event().wait()

run_until_told(main)
"""

# It writes its start and its orderly end to a file: "web 123" and "web ends".
_CHILD = """
import os, signal, sys, time
def note(event):
    with open(sys.argv[2], "a") as notes:
        notes.write(f"{sys.argv[1]} {event}\\n")
def end(*_):
    note("ends")
    sys.exit()
signal.signal(signal.SIGTERM, end)
note(os.getpid())
time.sleep(100)
"""


class _Supervised:
    """A supervisor in a process of its own, whose children write their events to a file."""

    def __init__(self, directory: Path, child: str) -> None:
        self.notes = directory / "notes"
        self.notes.touch()
        command = [sys.executable, "-c", _SUPERVISOR, child, str(self.notes)]
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)

    def lines(self) -> list[str]:
        return self.notes.read_text().splitlines()

    def pid(self, name: str) -> int:
        """Return the process that runs as `name`, once all three do."""
        wait_for(lambda: len({line.split()[0] for line in self.lines()}) == 3)
        return int([line.split()[1] for line in self.lines() if line.startswith(name)][-1])


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., _Supervised]]:
    """Start a supervisor, with other children if given; it ends with the test."""
    started = []

    def start(child: str = _CHILD) -> _Supervised:
        started.append(_Supervised(tmp_path, child))
        return started[-1]

    yield start
    for supervised in started:
        supervised.process.kill()
        supervised.process.wait()


@pytest.fixture
def supervised(supervise: Callable[..., _Supervised]) -> _Supervised:
    return supervise()


def test_a_child_that_dies_is_restarted(supervised: _Supervised) -> None:
    first = supervised.pid("worker.1")
    os.kill(first, signal.SIGKILL)

    wait_for(lambda: supervised.pid("worker.1") != first)
    assert "worker.1 ended (SIGKILL), restarting in 0.5 s" in supervised.output.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_workers_then_web_and_leaves_no_process(
    supervised: _Supervised, number: signal.Signals
) -> None:
    supervised.pid("web")
    supervised.process.send_signal(number)

    assert supervised.process.wait(20) == 0
    ends = [line for line in supervised.lines() if line.endswith("ends")]
    assert sorted(ends[:2]) == ["worker.1 ends", "worker.2 ends"]
    assert ends[2:] == ["web ends"]
    assert processes(str(supervised.notes)) == []


def test_ctrl_c_reaches_the_supervisor_alone(supervised: _Supervised) -> None:
    assert os.getsid(supervised.pid("web")) == supervised.pid("web")


def test_a_second_ctrl_c_kills_children_that_do_not_end(supervise: Callable[..., _Supervised]) -> None:
    stubborn = _CHILD.replace("signal.SIGTERM, end", "signal.SIGTERM, signal.SIG_IGN")
    supervised = supervise(stubborn)
    supervised.pid("web")
    supervised.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        supervised.process.wait(0.5)
    supervised.process.send_signal(signal.SIGINT)

    assert supervised.process.wait(10) == 0
    assert processes(str(supervised.notes)) == []


@linux
def test_the_children_of_a_killed_supervisor_end(supervised: _Supervised) -> None:
    supervised.pid("web")
    supervised.process.kill()

    wait_for(lambda: not processes(str(supervised.notes)))
    assert sum(line.endswith("ends") for line in supervised.lines()) == 3


def test_a_child_that_refuses_its_settings_is_not_restarted(
    supervise: Callable[..., _Supervised],
) -> None:
    supervised = supervise("import sys; sys.exit(2)")

    assert supervised.process.wait(20) == 1
    assert "GivenUp" in supervised.output.read_text()
    assert processes(str(supervised.notes)) == []
