"""Run the command line in a pipe and on a terminal."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog
from click.testing import CliRunner

from service.cli.main import main
from service.config.settings import Settings
from tests.conftest import ROOT, environment
from tests.support import forked
from tests.support.forked import Done


async def command(settings: Settings, *words: str, **changes: str) -> Done:
    """Run `holdfast` with its output in pipes."""
    variables = {**environment(settings), **changes}
    return await asyncio.to_thread(forked.run, ["service", *words], variables, ROOT)


async def typed(settings: Settings, *words: str, **changes: str) -> Done:
    """Run `holdfast` in this process. Not beside a worker in this process: the command would change its logging."""
    return await asyncio.to_thread(_typed, words, {**environment(settings), **changes})


def read_all(directory: Path) -> dict[str, bytes]:
    """Return the files below a directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


async def terminal(settings: Settings, *words: str, columns: int = 80, keys: bytes = b"") -> tuple[int, str]:
    """Run `holdfast` on a terminal without colours and type `keys`; return the exit code and the screen."""
    return await on_a_terminal(environment(settings), *words, columns=columns, keys=keys)


async def on_a_terminal(
    variables: Mapping[str, str], *words: str, columns: int = 80, keys: bytes = b""
) -> tuple[int, str]:
    """Do the same with environment variables instead of settings."""
    return await asyncio.to_thread(_on_a_terminal, variables, words, columns, keys)


def _typed(words: tuple[str, ...], variables: dict[str, str]) -> Done:
    log = structlog.get_config()
    try:
        done = CliRunner().invoke(main, words, env=variables, catch_exceptions=False)
    finally:
        structlog.configure(**log)
    return Done(words, done.exit_code, done.stdout, done.stderr)


def _on_a_terminal(
    given: Mapping[str, str], words: tuple[str, ...], columns: int, keys: bytes
) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {**given, "TERM": "xterm", "NO_COLOR": "1"}
    variables = {name: value for name, value in variables.items() if name not in {"COLUMNS", "LINES"}}
    process = forked.start(["service", *words], variables, ROOT, [theirs] * 3)
    os.close(theirs)
    os.write(ours, keys)
    screen = b""
    with suppress(OSError):  # EIO: the other end is closed
        while chunk := os.read(ours, 65536):
            screen += chunk
    os.close(ours)
    # Remove bold and dim, too: they are not colours.
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode, re.sub(r"\x1b\[[012]?m", "", screen.decode().replace("\r\n", "\n"))
