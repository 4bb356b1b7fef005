"""Keep child processes running: restart them when they die, and end all of them in order."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from service.local.guard import guarded

_GRACE_SECONDS = 25  # between SIGTERM and SIGKILL
_REFUSED = 2  # the exit code for a wrong setting
_STEADY_SECONDS = 30  # a process that ran longer restarts after the shortest pause
_LONGEST_PAUSE_SECONDS = 10.0
_LONGEST_LINE_BYTES = 1024 * 1024


class GivenUp(Exception):
    """A program cannot start with its settings; the message is one line."""


@dataclass(frozen=True)
class Program:
    """A program to run. Its output goes to `log`, or line by line to the supervisor's `say` if there is no log."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    log: Path | None = None


Say = Callable[[str, str], None]  # the name of a program, and a line


@asynccontextmanager
async def supervise(
    stages: Sequence[Sequence[Program]],
    say: Say,
    hurry: asyncio.Event,
    longest_pause: float = _LONGEST_PAUSE_SECONDS,
) -> AsyncIterator[Mapping[str, "Child"]]:
    """Run the programs during the block, and yield them by name. `hurry` kills those that are still ending.

    A program that dies restarts after half a second; the pause doubles up to `longest_pause`. At the end of the
    block the last stage ends first. Each program has its own session, so that Ctrl-C reaches only this process, and
    gets SIGTERM if this process is killed. Cancels the block and raises GivenUp, in an ExceptionGroup, if a program
    exits because of its settings.
    """
    async with asyncio.TaskGroup() as group:
        children = [[Child(program, say, longest_pause) for program in stage] for stage in stages]
        tasks = [group.create_task(child.keep_running()) for stage in children for child in stage]
        try:
            yield {child.program.name: child for stage in children for child in stage}
        finally:
            say(
                "supervisor",
                f"ending {', '.join(child.program.name for stage in children for child in stage)}",
            )
            await _finish(_end(children, hurry), hurry)
            for task in tasks:
                task.cancel()


async def _end(children: Sequence[Sequence["Child"]], hurry: asyncio.Event) -> None:
    for stage in reversed(children):
        await asyncio.gather(*(child.end(hurry) for child in stage))


async def _finish(ending: Coroutine[object, object, None], hurry: asyncio.Event) -> None:
    """Wait until `ending` is done; a cancellation only sets `hurry`, so that no process is left behind."""
    task = asyncio.create_task(ending)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            hurry.set()
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


class Child:
    """A program, and its current or last process."""

    def __init__(self, program: Program, say: Say, longest_pause: float) -> None:
        self.program = program
        self.say = say
        self.longest_pause = longest_pause
        self.process: asyncio.subprocess.Process | None = None
        self.ending = False

    async def keep_running(self) -> None:
        pause = 0.5
        while not self.ending:
            began = time.monotonic()
            code = await self._run()
            if self.ending:
                return
            if code == _REFUSED:
                log = f", see {self.program.log}" if self.program.log else ""
                raise GivenUp(f"{self.program.name} does not start with these settings{log}")
            if time.monotonic() - began > _STEADY_SECONDS:
                pause = 0.5
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self.say("supervisor", f"{self.program.name} ended ({how}), restarting in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, self.longest_pause)

    async def end(self, hurry: asyncio.Event) -> None:
        self.ending = True
        process = self.process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        waits = {asyncio.ensure_future(process.wait()), asyncio.ensure_future(hurry.wait())}
        _, pending = await asyncio.wait(waits, timeout=_GRACE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        if process.returncode is None:
            self.say("supervisor", f"{self.program.name} does not end, killing it")
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and any other process of its session
        await process.wait()

    async def _run(self) -> int:
        log = self.program.log.open("ab") if self.program.log else None
        try:
            self.process = await asyncio.create_subprocess_exec(
                *guarded(self.program.command, signal.SIGTERM),
                env=self.program.environment,
                cwd=self.program.directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log or asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                limit=_LONGEST_LINE_BYTES,
            )
        finally:
            if log:
                log.close()
        if self.process.stdout:
            await self._report_lines(self.process.stdout)
        return await self.process.wait()

    async def _report_lines(self, lines: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await lines.readline()
            except ValueError:  # longer than the limit; the stream skips it
                line = b"(a line is too long to show)\n"
            if not line:
                return
            self.say(self.program.name, line.decode(errors="replace").rstrip())
