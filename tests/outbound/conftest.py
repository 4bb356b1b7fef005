"""Servers of files, with and without TLS."""

import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from tests.support.file_server import Server, listen


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with listen(Server()) as listening:
        yield listening


@pytest.fixture
async def other() -> AsyncIterator[Server]:
    async with listen(Server()) as listening:
        yield listening


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "a.test", "b.test").configure_cert(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let clients trust the servers with TLS."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@pytest.fixture
async def secure(tls: ssl.SSLContext) -> AsyncIterator[Server]:
    async with listen(Server(scheme="https"), tls) as listening:
        yield listening
