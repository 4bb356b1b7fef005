"""Run one server as a child process with a directory of its own, and always stop it."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals

from service.local.guard import guarded, keeps_access

# A socket's path and its NUL must fit sockaddr_un: 108 bytes on Linux, 104 on macOS.
_MAX_SOCKET_BYTES = 103
_READY_SECONDS = 60  # recovery after a crash takes part of it


class ServerError(Exception):
    """A local server cannot run; the message gives the reason in one line."""


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Lock the directory for this process, until its end. Raises ServerError if another process has it."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (directory / "lock").open("a+")
    except OSError as exc:
        raise ServerError(f"cannot use {directory}: {exc.strerror}") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise ServerError(
                f"{directory} is in use by another holdfast (process {lock.read().strip()})"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def is_in_use(directory: Path) -> bool:
    """Say whether a process has locked the directory with `alone`."""
    try:
        with (directory / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def socket_directory(directory: Path, name: str, owner: tuple[int, int] | None = None) -> Iterator[Path]:
    """Yield a directory for the socket `name`: this one, or a temporary one.

    A temporary one is needed if `owner` cannot write here, or the path is too long or needs quoting.
    """
    path = directory / name
    is_inaccessible = bool(owner) and not keeps_access()
    is_short = len(os.fsencode(path)) <= _MAX_SOCKET_BYTES
    if is_short and re.fullmatch(r"[\w./-]+", str(path), re.ASCII) and not is_inaccessible:
        yield directory
        return
    short = Path(tempfile.mkdtemp(prefix="holdfast-", dir="/tmp"))
    try:
        if owner and is_inaccessible:
            os.chown(short, *owner)
        yield short
    finally:
        shutil.rmtree(short, ignore_errors=True)


@contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    *,
    is_ready: Callable[[int], bool],
    stop: Signals,
    owner: tuple[int, int] | None = None,
) -> Iterator[None]:
    """Run the server, with its output in `server.log`; wait until `is_ready` returns True for its process id."""
    log = directory / "server.log"
    with log.open("ab") as output:
        server = subprocess.Popen(  # noqa: S603 our own command
            guarded(command, stop, owner=owner),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops the server
        )
        try:
            _wait_until_ready(server, is_ready, Path(command[0]).name, log)
            yield
        finally:
            _end(server, stop)


def end_leftovers(program: str, directory: Path, pid_file: Path, stop: Signals) -> None:
    """End processes of a server that outlived its parent, and remove the pid file. The caller holds the lock.

    Helper processes count, too: a new Postgres must not find the shared memory of the old one. The pid file alone
    is not enough, because its number may belong to another program by now.
    """
    main = pid_file.read_text().partition("\n")[0].strip() if pid_file.exists() else ""
    deadline = time.monotonic() + 20
    asked = False
    while pids := _working_in(directory, program):
        for pid in pids:
            late = time.monotonic() > deadline
            if late or (str(pid) == main and not asked):
                asked = True
                with suppress(ProcessLookupError):
                    os.kill(pid, SIGKILL if late else stop)
        time.sleep(0.05)
    pid_file.unlink(missing_ok=True)


def _working_in(directory: Path, program: str) -> list[int]:
    if sys.platform != "linux":
        command = ["/bin/ps", "-axww", "-o", "pid=,command="]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 fixed
        lines = [line.split(maxsplit=1) for line in listed.splitlines()]
        return [int(pid) for pid, run in lines if f"/{program} " in run and str(directory) in run]
    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if _is(process, directory, program)]


def _is(process: Path, directory: Path, program: str) -> bool:
    try:
        # "program (deleted)" after an upgrade of the wheel
        return (process / "cwd").readlink() == directory and (process / "exe").readlink().name.startswith(
            program
        )
    except OSError:
        return False


def _wait_until_ready(
    server: subprocess.Popen[bytes], is_ready: Callable[[int], bool], name: str, log: Path
) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not is_ready(server.pid):
        if server.poll() is not None:
            raise ServerError(
                f"{name} ended at start with {server.returncode}: {_last_line(log)} (see {log})"
            )
        if time.monotonic() > deadline:
            raise ServerError(f"{name} is not ready after {_READY_SECONDS} s (see {log})")
        time.sleep(0.02)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "no output"


def _end(server: subprocess.Popen[bytes], stop: Signals) -> None:
    for signal, seconds in ((stop, 20), (SIGINT if stop == SIGTERM else SIGTERM, 2), (SIGKILL, 5)):
        if server.poll() is None:
            server.send_signal(signal)
            # A second Ctrl-C only moves on to the next signal; the server must not be left running.
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                server.wait(seconds)
