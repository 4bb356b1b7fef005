"""What has to be there before anything heavy is loaded: the port, and where several processes count together."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Connections that wait to be accepted; the kernel drops what comes beyond them without a word.
BACKLOG = 4096

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_MEMORY = Path("/dev/shm")  # noqa: S108 a directory with a name of its own is made in it
_FREE_BYTES = 16 * 1024**2


@contextmanager
def listening(host: str, port: int) -> Iterator[Sequence[socket.socket]]:
    """Listen at each address of the host: who connects from now on waits for us, and is not refused.

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
    """Let the processes that are forked from this one add up their metrics, which prometheus_client does in files.

    It looks for the directory while it is imported. It writes through memory, and a process dies of a disk that is
    full: so the files lie in memory, or if there is none for them, each process counts for itself.
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
    """Make the directory of `counting_together` anew if somebody removed it, for a process that starts later."""
    if directory := os.environ.get(_VARIABLE):
        Path(directory).mkdir(mode=0o700, exist_ok=True)
