"""Sockets and shared metrics, opened before the heavy imports."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Connections that wait to be accepted; the kernel silently drops further ones.
BACKLOG = 4096

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_MEMORY = Path("/dev/shm")  # noqa: S108 a directory with a name of its own is made in it
_FREE_BYTES = 16 * 1024**2


@contextmanager
def listening(host: str, port: int) -> Iterator[Sequence[socket.socket]]:
    """Listen at each address of the host: from now on connections wait, instead of being refused.

    Raises OSError.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, address[:2]) for family, _, _, _, address in found)
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_server(address, family=family, backlog=BACKLOG))
            for family, address in addresses
        ]


@contextmanager
def counting_together() -> Iterator[None]:
    """Let the processes that are forked from this one add up their metrics, in files of prometheus_client.

    prometheus_client reads the directory's name at its import. It maps the files into memory, and a full disk would
    kill the process: so they lie in /dev/shm. Without room there, each process counts for itself.
    """
    if not (
        _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _FREE_BYTES
    ):
        yield
        return
    with tempfile.TemporaryDirectory(prefix=f"holdfast-metrics-{os.getpid()}-", dir=_MEMORY) as directory:
        os.environ[_VARIABLE] = directory
        yield


def restore_counters() -> None:
    """Create the directory of `counting_together` again if it was removed, for a process that starts later."""
    if directory := os.environ.get(_VARIABLE):
        Path(directory).mkdir(mode=0o700, exist_ok=True)
