"""Run `python -m MODULE` in processes that are forked from one that has loaded it already: loading takes a second."""

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryFile
from typing import Any

Done = CompletedProcess[str]

# Whatever a command imports when it is called.
_COMMANDS = (Path(__file__).parents[1] / "service/cli").glob("[a-z]*.py")
_context = get_context("forkserver")
_context.set_forkserver_preload(
    [
        *(f"service.cli.{path.stem}" for path in _COMMANDS),
        "alembic.config",
        "arq.cli",
        "service.resources",
        "service.doctor.examine",
        "service.web.app",
        "service.worker",
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
