"""What has to be there before anything heavy is loaded: the port, and where several processes count together."""

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

# Connections that wait to be accepted; the kernel drops what comes beyond them without a word.
BACKLOG = 4096


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

    It looks for the directory while it is imported.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-metrics-") as directory:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        yield
