"""Several processes that serve the same sockets: fork them, start again what died, end all in order."""

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

# Within what a platform waits; a process has 20 s of it for what is under way.
GRACE_SECONDS = 24.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 30.0  # after which a death is news, not the last one's consequence

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
_BROKE = 3  # the exit code of a process that an exception ended: nearly always one that could not start

log = structlog.get_logger()


@dataclass
class _Child:
    pid: int = 0  # 0 while there is none
    is_first: bool = True
    began: float = 0.0
    due: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS


def keep_running(serve: Callable[[int], None], number: int, sockets: Sequence[socket.socket]) -> None:
    """Run `serve` in so many processes until SIGTERM or SIGINT; exits with 1 where it cannot even start.

    They share the queue of connections that wait to be accepted: what one left there, another takes. `serve`
    gets the end of a pipe that closes with this process, however it ends.
    """
    alive, hold = os.pipe()
    signals = _listen_for_signals()
    children = [_Child() for _ in range(number)]
    told = broke = False
    while not (told or broke):
        for child in children:
            if not child.pid and child.due <= time.monotonic():
                child.pid, child.began = _fork(serve, alive, hold), time.monotonic()
        due = min((child.due for child in children if not child.pid), default=None)
        told = _was_told(signals, due)
        broke = any(_has_broken(child) for child in children)
    for listener in sockets:
        listener.close()  # nobody shall wait for processes that accept nothing any more
    _end(children, signals)
    if broke:
        sys.exit(1)


def _listen_for_signals() -> socket.socket:
    """Have the number of each signal written to a socket; return its other end."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach())
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    return reader


def _was_told(signals: socket.socket, until: float | None) -> bool:
    """Wait for a signal, or until that time; True if it says that it is time to end."""
    seconds = None if until is None else max(0.0, until - time.monotonic())
    if not select.select([signals], [], [], seconds)[0]:
        return False
    return bool({signal.SIGTERM, signal.SIGINT} & {*signals.recv(4096)})


def _fork(serve: Callable[[int], None], alive: int, hold: int) -> int:
    """Return the id of a process that serves; it never returns from here itself."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # for its handlers are ours until it has set its own
    try:
        if pid := os.fork():
            log.info("web_process_started", process=pid)
            return pid
        os.close(hold)
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    code = _BROKE
    try:
        serve(alive)
        code = 0
    except BaseException:
        log.exception("web_process_broke")
    finally:  # whatever happens, nothing of the parent's is tidied up here
        os._exit(code)


def _has_broken(child: _Child) -> bool:
    """Plan the next start of one that died; True if it is of no use, since it did not start at all."""
    if not child.pid or (code := _exit_code(child, os.WNOHANG)) is None:
        return False
    if child.is_first and code == _BROKE:
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
    """Return it, below 0 for a signal; None while the process runs."""
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
        os.kill(child.pid, signal.SIGTERM)  # it is not reaped yet, so the id is still its own
    while running and time.monotonic() < deadline:
        _was_told(signals, deadline)
        running = [child for child in running if _exit_code(child, os.WNOHANG) is None]
    for child in running:
        log.error("web_process_killed", process=child.pid)
        os.kill(child.pid, signal.SIGKILL)
        _exit_code(child, 0)
