"""Several web processes on the same sockets: fork them, replace dead ones, end all in order."""

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from service.telemetry.metrics import forget_process

# A platform waits 30 s. Processes use up to 20 s for running requests.
GRACE_SECONDS = 24.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 30.0  # a process that lived so long resets the pause

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
_FAILED = 3  # the exit code after an exception: nearly always one at the start

log = structlog.get_logger()


@dataclass
class _Child:
    pid: int = 0  # 0 while there is none
    is_first: bool = True
    began: float = 0.0
    due: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS


def keep_running(serve: Callable[[int], None], number: int, sockets: Sequence[socket.socket]) -> None:
    """Run `serve` in `number` processes until SIGTERM or SIGINT; exits with 1 if they cannot start.

    All processes accept connections from one queue. `serve` gets the read end of a pipe that closes when this process
    ends, even by SIGKILL.
    """
    read_end, write_end = os.pipe()
    signals = _listen_for_signals()
    children = [_Child() for _ in range(number)]
    ending = failed = False
    while not (ending or failed):
        for child in children:
            if not child.pid and child.due <= time.monotonic():
                child.pid, child.began = _fork(serve, read_end, write_end), time.monotonic()
        due = min((child.due for child in children if not child.pid), default=None)
        ending = _must_end(signals, due)
        failed = any(_failed_to_start(child) for child in children)
    for listener in sockets:
        listener.close()  # otherwise clients would wait for processes that accept no connection
    _end(children, signals)
    if failed:
        sys.exit(1)


def _listen_for_signals() -> socket.socket:
    """Have each signal's number written to a socket; return the other end."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach())
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    return reader


def _must_end(signals: socket.socket, until: float | None) -> bool:
    """Wait for a signal, or until that time; True after SIGTERM or SIGINT."""
    seconds = None if until is None else max(0.0, until - time.monotonic())
    if not select.select([signals], [], [], seconds)[0]:
        return False
    return bool({signal.SIGTERM, signal.SIGINT} & {*signals.recv(4096)})


def _fork(serve: Callable[[int], None], read_end: int, write_end: int) -> int:
    """Return the id of a new process that serves; that process never returns from here."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the child has our handlers until it resets them
    try:
        if pid := os.fork():
            log.info("web_process_started", process=pid)
            return pid
        os.close(write_end)
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    code = _FAILED
    try:
        serve(read_end)
        code = 0
    except BaseException:
        log.exception("web_process_failed")
    finally:  # skip the parent's cleanup in any case
        os._exit(code)


def _failed_to_start(child: _Child) -> bool:
    """Plan the replacement of a dead process; True if its first start failed, so that another is useless."""
    if not child.pid or (code := _exit_code(child, os.WNOHANG)) is None:
        return False
    if child.is_first and code == _FAILED:
        return True
    now = time.monotonic()
    if now - child.began > STEADY_SECONDS:
        child.pause = FIRST_PAUSE_SECONDS
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    log.warning("web_process_ended", how=how, next_in_seconds=child.pause)
    child.is_first, child.due = False, now + child.pause
    child.pause = min(2 * child.pause, LONGEST_PAUSE_SECONDS)
    return False


def _exit_code(child: _Child, options: int) -> int | None:
    """Return the exit code, negative for a signal; None while the process runs."""
    pid, status = os.waitpid(child.pid, options)
    if not pid:
        return None
    child.pid = 0
    forget_process(pid)
    return os.waitstatus_to_exitcode(status)


def _end(children: Sequence[_Child], signals: socket.socket) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    running = [child for child in children if child.pid]
    for child in running:
        os.kill(child.pid, signal.SIGTERM)  # not reaped yet, so the id is still valid
    while running and time.monotonic() < deadline:
        _must_end(signals, deadline)
        running = [child for child in running if _exit_code(child, os.WNOHANG) is None]
    for child in running:
        log.error("web_process_killed", process=child.pid)
        os.kill(child.pid, signal.SIGKILL)
        _exit_code(child, 0)
