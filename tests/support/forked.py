"""Run `python -m MODULE` in forks of a process that has imported everything: an import takes two seconds."""

import asyncio
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from signal import SIGKILL, SIGTERM
from subprocess import CompletedProcess
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, Any

Done = CompletedProcess[str]
_create_subprocess_exec = asyncio.create_subprocess_exec

# Each command imports its module only when it is called.
_COMMANDS = (Path(__file__).parents[2] / "service/cli").glob("[a-z]*.py")
_context = get_context("forkserver")
_context.set_forkserver_preload(
    [
        *(f"service.cli.{path.stem}" for path in _COMMANDS),
        "alembic.config",
        "arq.cli",
        "service.resources",
        "service.checks.report",
        "service.local.drill.run",
        "service.local.receiver",
        "service.targets.mongodb",
        "service.web.app",
        "service.web.server.serve",
        "service.worker.settings",
        "pymongo",
        "rich.live",
        "tests.support.frozen",
    ]
)


def start(
    words: Sequence[str], variables: Mapping[str, str], directory: Path, streams: Sequence[int]
) -> ForkServerProcess:
    """Start `python -m WORDS`; `streams` are descriptors for its standard input, output and errors."""
    if parent_process() is not None and forkserver._forkserver._forkserver_pid is None:  # type: ignore[attr-defined]
        # This process was forked from the server itself. Without this it would start a server of its own.
        forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    passed = [_Passed(each) for each in streams]
    process = _context.Process(target=_run, args=(list(words), dict(variables), directory, passed))
    process.start()
    return process


class Program:
    """A running `python -m WORDS`. It writes where this process does, unless `streams` say otherwise."""

    def __init__(
        self,
        words: Sequence[str],
        variables: Mapping[str, str],
        directory: Path,
        streams: Sequence[int] = (0, 1, 2),
    ) -> None:
        self._process = start(words, variables, directory, streams)
        assert self._process.pid
        self.pid = self._process.pid
        # The exit code, or the signal's number with a minus; None while it runs.
        self.returncode: int | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        Thread(target=self._watch, daemon=True).start()  # reading the exit code may block

    async def wait(self) -> int:
        """Wait for its end; return the exit code."""
        while (code := self.returncode) is None:
            await asyncio.sleep(0.01)
        return code

    async def communicate(self) -> tuple[bytes | None, bytes | None]:
        """Read what it writes to pipes, and wait for its end."""
        out, errors = await asyncio.gather(*(_read(pipe) for pipe in (self.stdout, self.stderr)))
        await self.wait()
        return out, errors

    def send_signal(self, signal: int) -> None:
        """Send a signal. Raises ProcessLookupError where it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, signal)

    def terminate(self) -> None:
        """Ask it to end. Raises ProcessLookupError where it has ended."""
        self.send_signal(SIGTERM)

    def kill(self) -> None:
        """Kill it. Raises ProcessLookupError where it has ended."""
        self.send_signal(SIGKILL)

    def _watch(self) -> None:
        self._process.join()
        self.returncode = self._process.exitcode


async def create_subprocess_exec(*command: str, **options: Any) -> Any:
    """Do the same as asyncio's function, but fork `python -m service ...`, also when it runs under a guard.

    A guard ends its process when the parent dies. A forked process outlives its parent.
    """
    words = [*command]
    if words[1:3] == ["-I", "-S"] and words[6] == "-1":  # the guard of `service.local.guard`, without a user
        words = words[8:]
    variables = options.get("env") or os.environ
    own = words[:2] == [sys.executable, "-m"] and words[2].partition(".")[0] == "service"
    if not own or "LD_PRELOAD" in variables:
        return await _create_subprocess_exec(*command, **options)
    pipes: dict[str, int] = {}
    with ExitStack() as stack:
        nothing = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, nothing)
        streams = []
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            wanted = options.get(name)
            match wanted:
                case None:
                    streams.append(number)
                case subprocess.DEVNULL:
                    streams.append(nothing)
                case subprocess.STDOUT:
                    streams.append(streams[1])
                case subprocess.PIPE:
                    pipes[name], writing = os.pipe()
                    stack.callback(os.close, writing)
                    streams.append(writing)
                case _:
                    streams.append(wanted.fileno())
        directory = Path(options.get("cwd") or Path.cwd())
        process = await asyncio.to_thread(Program, words[2:], variables, directory, streams)
    for name, reading in pipes.items():
        setattr(process, name, await _reader(reading, options.get("limit", 2**16)))
    return process


async def _reader(pipe: int, limit: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb")
    )
    return reader


async def _read(pipe: asyncio.StreamReader | None) -> bytes | None:
    return await pipe.read() if pipe else None


def run(words: Sequence[str], variables: Mapping[str, str], directory: Path) -> Done:
    """Run `python -m WORDS` for at most a minute."""
    with running(words, variables, directory) as process:
        return process.end()


@contextmanager
def running(words: Sequence[str], variables: Mapping[str, str], directory: Path) -> Iterator["Running"]:
    """Run `python -m WORDS` beside the block; kill it at the end."""
    with Path(os.devnull).open() as nothing, TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        process = start(words, variables, directory, [each.fileno() for each in (nothing, output, errors)])
        try:
            yield Running(words, process, output, errors)
        finally:
            process.kill()
            process.join()


@dataclass(frozen=True)
class Running:
    """A running process, and what it has written."""

    _words: Sequence[str]
    _process: ForkServerProcess
    _output: IO[str]
    _errors: IO[str]

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self._process.kill()
        self._process.join()

    def end(self) -> Done:
        """Wait for its end, for at most a minute; then kill it."""
        self._process.join(60)
        self.kill()
        self._output.seek(0)
        self._errors.seek(0)
        return Done(self._words, self._process.exitcode or 0, self._output.read(), self._errors.read())


def end_server() -> None:
    """End the fork server, which multiprocessing would keep until this process ends."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined] # there is no public way


@dataclass(frozen=True)
class _Passed:
    """A file descriptor that gets another number in the other process."""

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
    if place := variables.get("TMPDIR"):
        os.open(place, os.O_RDONLY)  # marks the process: /proc shows the fork server's environment
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = list(words)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 multiprocessing put another one there
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
