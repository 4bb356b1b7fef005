"""A local Holdfast for `holdfast up` and `demo`: servers, migrations, then web and workers as in production."""

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

from aiohttp import ClientError, ClientSession, ClientTimeout

from service.local import environment
from service.local.directory import own_directory
from service.local.guard import guarded
from service.local.launch import ServerError, alone
from service.local.servers import postgres, valkey
from service.local.supervisor import Program

# `python -m service` works in this directory, the repository or site-packages.
ROOT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 60


@dataclass(frozen=True)
class Stack:
    """A local Holdfast whose servers run: the `settings` of its processes, and the user's environment (`own`)."""

    data_dir: Path
    settings: Mapping[str, str]
    own: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings['PORT']}"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    def programs(
        self, workers: int, *, to_files: bool, more: Mapping[str, str] | None = None
    ) -> Sequence[Sequence[Program]]:
        """Return web and workers as two stages, so that the workers end first. `more` are further settings."""

        def program(name: str, kind: str) -> Program:
            variables = {**self.own, **self.settings, **(more or {}), "WORKER_NAME": name}
            log = self.logs / f"{name}.log" if to_files else None
            return Program(name, [sys.executable, "-m", "service", kind], variables, ROOT, log)

        return [[program("web", "web")], [program(f"worker.{n}", "worker") for n in range(1, workers + 1)]]


@contextmanager
def open_stack(
    data_dir: Path, port: int, own: Mapping[str, str], *, say: Callable[[str], None], fresh: bool = False
) -> Iterator[Stack]:
    """Start the servers that the user's environment does not name, migrate, and write `data_dir`/env.

    `fresh` removes all earlier data first. Raises ServerError.
    """
    data_dir = own_directory(data_dir)
    with ExitStack() as opened:
        opened.enter_context(alone(data_dir))
        with _one_line_os_errors(data_dir):
            if fresh:
                _remove_data(data_dir)
            environment.choose(data_dir, own, {}, port)  # raises for a broken file before anything starts
            servers = dict(_start(data_dir, own, opened, say))
            settings = environment.choose(data_dir, own, servers, port)
            environment.write(data_dir / "env", settings)
            for name in ("logs", "objects"):
                (data_dir / name).mkdir(exist_ok=True, mode=0o700)
        migrate({**own, **settings})
        say("the tables are up to date")
        yield Stack(data_dir, settings, own)


async def wait_until_ready(url: str) -> None:
    """Wait until /readyz answers 200. Raises ServerError after a minute."""
    deadline = time.monotonic() + _READY_SECONDS
    answer = "no answer"
    async with ClientSession(timeout=ClientTimeout(total=5)) as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(f"{url}/readyz") as response:
                    if response.status == 200:
                        return
                    answer = await response.text()
            except (ClientError, TimeoutError):
                pass  # it does not listen yet
            await asyncio.sleep(0.1)
    raise ServerError(f"web is not ready after {_READY_SECONDS} s: {answer}")


async def connect(stack: Stack, account: Mapping[str, str]) -> Sequence[str]:
    """Connect the running stack to an account with `holdfast connect`; return its lines. Raises ServerError."""
    command = [sys.executable, "-m", "service", "connect", "--url", stack.url, "--yes", "--no-wait"]
    process = await asyncio.create_subprocess_exec(
        *guarded(command, SIGTERM),
        cwd=ROOT,
        env={**stack.own, **stack.settings, **account},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.terminate()
        raise
    lines = said.decode(errors="replace").splitlines()
    if process.returncode:
        raise ServerError(f"holdfast connect failed: {lines[-1] if lines else 'no output'}")
    return lines


def is_free(port: int) -> bool:
    """Say whether web can listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def migrate(variables: Mapping[str, str]) -> None:
    """Run the migrations, as the release phase does. Raises ServerError."""
    command = guarded([sys.executable, "-m", "service", "migrate"], SIGTERM)
    done = subprocess.run(  # noqa: S603 our own command
        command,
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        # Exit code 2 means a wrong setting, which the line names.
        raise ServerError(lines[-1] if done.returncode == 2 else f"the migrations failed: {lines[-1]}")


def _start(
    data_dir: Path, own: Mapping[str, str], opened: ExitStack, say: Callable[[str], None]
) -> Iterator[tuple[str, str]]:
    """Start the servers that the user's environment does not name; yield their settings."""
    for name, title, server in (("DATABASE_URL", "Postgres", postgres), ("REDIS_URL", "Valkey", valkey)):
        if not own.get(name):
            began = time.monotonic()
            yield name, opened.enter_context(server(data_dir / title.lower()))
            say(f"{title} runs ({time.monotonic() - began:.1f} s)")


@contextmanager
def _one_line_os_errors(data_dir: Path) -> Iterator[None]:
    """Turn OSError into a ServerError of one line."""
    try:
        yield
    except OSError as exc:
        raise ServerError(f"cannot use {exc.filename or data_dir}: {exc.strerror or exc}") from exc


def _remove_data(data_dir: Path) -> None:
    """Remove only files that an earlier run wrote."""
    for name in ("postgres", "valkey", "objects", "logs"):
        with suppress(FileNotFoundError):
            shutil.rmtree(data_dir / name)
    (data_dir / "env").unlink(missing_ok=True)
