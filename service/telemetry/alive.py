"""Check whether a process on this machine is alive, for a platform's probe: quickly, without Postgres or Redis.

A worker writes a few bytes into a file every five seconds, from its event loop. A web process answers GET
/healthz. This module imports next to nothing, because a probe runs every few seconds beside the service.
"""

import os
import sys
import time
from collections.abc import Sequence

BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
ANSWER_SECONDS = 5.0
LEAST_WATCHDOG_SECONDS = 5.0

_USAGE = "usage: holdfast alive web|worker"


def main(words: Sequence[str]) -> None:
    """Print one line; exit with 0 if the process is alive, with 1 if not, with 2 for wrong arguments."""
    if list(words) not in (["web"], ["worker"]):
        about = [*words] == ["-h"] or [*words] == ["--help"]
        print(_USAGE, file=sys.stdout if about else sys.stderr)
        sys.exit(0 if about else 2)
    problem = web_problem() if words[0] == "web" else worker_problem(worker_name())
    print(problem or f"{words[0]}: alive", file=sys.stderr if problem else sys.stdout)
    sys.exit(1 if problem else 0)


def beat(name: str) -> None:
    """Record in a file that the worker of this name is alive; blocks. Raises OSError.

    The file is written in place, because that works on a full disk. A link or a pipe at its path is not
    opened.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(path_of(name), flags, 0o644)
    try:
        os.pwrite(file, f"{os.getpid():>10} {time.monotonic():>20.3f}\n".encode(), 0)
    finally:
        os.close(file)


def end(name: str) -> None:
    """Remove the file of a worker that shuts down normally; blocks. Raises OSError."""
    os.unlink(path_of(name))  # noqa: PTH108 pathlib is slow to import


def worker_problem(name: str) -> str:
    """Return why the worker of this name is not alive; "" if it is."""
    path = path_of(name)
    try:
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            pid, at = file.read(100).split()
        age = time.monotonic() - float(at)
        os.kill(int(pid), 0)
    except FileNotFoundError:
        return f"worker {name}: {path} does not exist; it did not start here, or has another WORKER_NAME or TMPDIR"
    except ProcessLookupError:
        return f"worker {name}: process {int(pid)} has ended"
    except PermissionError as exc:
        if exc.filename:
            return f"worker {name}: {path} cannot be read ({exc.strerror})"
    except (OSError, ValueError) as exc:
        return f"worker {name}: {path} cannot be read ({type(exc).__name__})"
    if not 0 <= age <= STALE_SECONDS:
        return f"worker {name}: process {int(pid)} was last alive {age:.0f} s ago"
    return ""


def web_problem() -> str:
    """Return why the web process of $HOST:$PORT does not answer; "" if it does."""
    import socket  # noqa: PLC0415 the probe of a worker needs no socket

    host, port = os.environ.get("HOST") or "0.0.0.0", os.environ.get("PORT") or "8000"  # noqa: S104 the settings' defaults
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 to listen on all addresses is to listen on this one
    deadline = time.monotonic() + ANSWER_SECONDS
    answer = b""
    try:
        with socket.create_connection((host, int(port)), ANSWER_SECONDS) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while b"\r\n" not in answer and time.monotonic() < deadline:
                if not (piece := connection.recv(4096)):
                    break
                answer += piece
    except (OSError, ValueError) as exc:
        return f"web: no answer from {host}:{port} ({exc})"
    if not answer.startswith(b"HTTP/1.1 200 "):
        return f"web: {host}:{port} answered {answer[:100].split(bytes([13]))[0].decode(errors='replace')}"
    return ""


def worker_name() -> str:
    """Return the worker's name, as the settings define it."""
    return os.environ.get("WORKER_NAME") or os.uname().nodename


def path_of(name: str) -> str:
    """Return the path of the file, in $TMPDIR or else in /tmp."""
    plain = "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in name)
    return f"{os.environ.get('TMPDIR') or '/tmp'}/holdfast-{plain[:100]}.alive"  # noqa: S108  `beat` follows no link


async def watchdog(seconds: float) -> None:
    """Until cancelled, end this process with a traceback once its event loop has stood still for this long.

    A C timer does it, because code that hangs may hold the interpreter's lock. The platform then starts the
    process again, and other workers take its jobs.
    """
    import asyncio  # noqa: PLC0415 slow to import, and a probe does not need them
    import faulthandler  # noqa: PLC0415

    seconds = max(seconds, LEAST_WATCHDOG_SECONDS)
    try:
        while True:
            faulthandler.dump_traceback_later(seconds, exit=True)
            await asyncio.sleep(seconds / 4)
    finally:
        faulthandler.cancel_dump_traceback_later()
