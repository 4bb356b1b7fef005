"""Run `python -m MODULE` in processes that are forked from one that has loaded it already: loading takes a second."""

import asyncio
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from signal import SIGKILL
from subprocess import CompletedProcess
from tempfile import TemporaryFile
from threading import Thread
from typing import Any

Done = CompletedProcess[str]

# Whatever a command imports when it is called.
_COMMANDS = (Path(__file__).parents[2] / "service/cli").glob("[a-z]*.py")
_context = get_context("forkserver")
_context.set_forkserver_preload(
    [
        *(f"service.cli.{path.stem}" for path in _COMMANDS),
        "alembic.config",
        "arq.cli",
        "service.resources",
        "service.checks.report",
        "service.web.app",
        "service.worker.settings",
        "rich.live",
    ]
)


def start(
    words: Sequence[str], variables: Mapping[str, str], directory: Path, streams: Sequence[int]
) -> ForkServerProcess:
    """Start `python -m WORDS`; `streams` are descriptors for its standard input, output and errors."""
    passed = [_Passed(each) for each in streams]
    process = _context.Process(target=_run, args=(list(words), dict(variables), directory, passed))
    process.start()
    return process


class Program:
    """A running `python -m WORDS`, which writes where this process does."""

    def __init__(self, words: Sequence[str], variables: Mapping[str, str], directory: Path) -> None:
        self._process = start(words, variables, directory, (0, 1, 2))
        assert self._process.pid
        self.pid = self._process.pid
        # The exit code, or the signal's number with a minus; None while it runs.
        self.returncode: int | None = None
        Thread(target=self._watch, daemon=True).start()  # asking for the code may block

    async def wait(self) -> int:
        """Wait for its end; return the exit code."""
        while (code := self.returncode) is None:
            await asyncio.sleep(0.01)
        return code

    def send_signal(self, signal: int) -> None:
        """Send a signal. Raises ProcessLookupError where it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, signal)

    def kill(self) -> None:
        """Kill it. Raises ProcessLookupError where it has ended."""
        self.send_signal(SIGKILL)

    def _watch(self) -> None:
        self._process.join()
        self.returncode = self._process.exitcode


def run(words: Sequence[str], variables: Mapping[str, str], directory: Path) -> Done:
    """Run `python -m WORDS` for at most a minute."""
    with Path(os.devnull).open() as nothing, TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        process = start(words, variables, directory, [each.fileno() for each in (nothing, output, errors)])
        process.join(60)
        process.kill()
        process.join()
        output.seek(0)
        errors.seek(0)
        return Done(words, process.exitcode or 0, output.read(), errors.read())


def end_server() -> None:
    """End the process that others are forked from; multiprocessing lets it live as long as this one."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined] # there is no public way


@dataclass(frozen=True)
class _Passed:
    """A descriptor that is another number in the process that it is passed to."""

    number: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _take, (DupFd(self.number),)


def _take(passed: Any) -> int:
    number: int = passed.detach()
    return number


def _run(words: Sequence[str], variables: Mapping[str, str], directory: Path, streams: Sequence[int]) -> None:
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = list(words)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 multiprocessing put another one there
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
