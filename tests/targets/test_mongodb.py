"""The MongoDB target before a server answers: options of SYNC_URL, and errors of the connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.errors import SettingsError, Transient
from service.resources import check_usable, open_resources
from service.targets.target import collection_of
from tests.support.targets import syncing


@pytest.mark.parametrize(
    ("options", "about"),
    [
        ("tsl=true", "tls"),
        ("w=majority&socketTimeoutMS=hunter2", "sockettimeoutms"),
        ("authMechanismProperties=hunter2:x", ""),
        ("hunter2=x", ""),
        ("tls=true&tls=false", "tls"),
    ],
)
def test_option_that_the_driver_would_ignore_is_an_invalid_setting(
    settings: Settings, options: str, about: str
) -> None:
    with pytest.raises(SettingsError, match=rf"^SYNC_URL: .*\ban option after the \?.*{about}") as raised:
        check_usable(syncing(settings, f"mongodb://u:hunter2@127.0.0.1:1/a.b?{options}"))

    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_missing_or_invalid_certificate_file_is_an_invalid_setting(
    settings: Settings, tmp_path: Path, content: str | None
) -> None:
    if content:
        (tmp_path / "ca.pem").write_text(content)

    with pytest.raises(SettingsError, match=r"^SYNC_URL: the file of tlsCAFile"):
        check_usable(syncing(settings, f"mongodb://127.0.0.1:1/a.b?tls=true&tlsCAFile={tmp_path}/ca.pem"))


@asynccontextmanager
async def plain_http_server() -> AsyncIterator[int]:
    """Start a server that answers every connection with an HTTP error; yield its port."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("address", "code", "says"),
    [
        ("127.0.0.1:{}/a.b?tls=true", "tls_failed", "certificate"),
        # Longer than a host name may be, so no name server is asked.
        (f"{'.'.join('abcd'[n] * 63 for n in range(4))}.example/a.b", "receiver_away", "unknown host name"),
        ("127.0.0.1:1/a.b", "receiver_away", "cannot be reached"),
    ],
)
async def test_connection_error_is_told_in_our_own_words(
    settings: Settings, address: str, code: str, says: str
) -> None:
    async with plain_http_server() as port:
        url = f"mongodb://u:hunter2@{address.format(port)}"
        async with open_resources(syncing(settings, url, sync_seconds=2)) as res:
            collection = collection_of(res.targets)
            assert collection
            with pytest.raises(Transient, match=says) as raised:
                await collection.check()

    assert raised.value.code == code
    assert not {"hunter2", "127.0.0.1", "errno"} & set(raised.value.message.lower().split())
