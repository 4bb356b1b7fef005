"""Proxies in front of the servers of the tests."""

import asyncio
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import trustme
from pydantic import SecretStr
from yarl import URL

from service.config.settings import Settings
from service.local.drill.proxy import Proxy


@asynccontextmanager
async def before_postgres(settings: Settings) -> AsyncIterator[tuple[Proxy, Settings]]:
    """Put a proxy in front of Postgres; yield the proxy, and settings that lead through it."""
    assert settings.database_url
    sockets = parse_qs(urlsplit(settings.database_url.get_secret_value()).query)["host"][0]
    async with Proxy(lambda: asyncio.open_unix_connection(f"{sockets}/.s.PGSQL.5432")) as proxy:
        url = SecretStr(f"postgresql://postgres:any@127.0.0.1:{proxy.port}/postgres?sslmode=disable")
        yield proxy, settings.model_copy(update={"database_url": url})


@asynccontextmanager
async def before_redis(settings: Settings) -> AsyncIterator[tuple[Proxy, Settings]]:
    """Put a proxy in front of Redis; yield the proxy, and settings that lead through it."""
    assert settings.redis_url
    path = urlsplit(settings.redis_url.get_secret_value()).path
    async with Proxy(lambda: asyncio.open_unix_connection(path)) as proxy:
        url = SecretStr(f"redis://127.0.0.1:{proxy.port}")
        yield proxy, settings.model_copy(update={"redis_url": url})


@asynccontextmanager
async def behind_tls(path: Path, certificate: ssl.SSLContext, *, asks_first: bool) -> AsyncIterator[int]:
    """Put TLS in front of a server's socket; yield the port. `asks_first`: clients request TLS first, as Postgres clients do.

    https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL
    """
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            if asks_first:
                await reader.readexactly(8)
                writer.write(b"S")
                await writer.start_tls(certificate)
            theirs, ours = await asyncio.open_unix_connection(path)
            with closing(ours):
                there, back = (
                    asyncio.create_task(pass_on(*way)) for way in ((reader, ours), (theirs, writer))
                )
                try:
                    await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    there.cancel()
                    back.cancel()
                    await asyncio.gather(there, back, return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if asks_first else certificate)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


async def pass_on(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()


def self_signed(directory: Path) -> ssl.SSLContext:
    """Make a self-signed certificate, as Heroku's Redis has."""
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    chain = [leaf.private_key_pem, *leaf.cert_chain_pems, authority.cert_pem]
    (directory / "server.pem").write_bytes(b"".join(pem.bytes() for pem in chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context


@asynccontextmanager
async def before_mongodb(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Put a proxy in front of MongoDB; yield the proxy, and the address of the collection through it."""
    parts = URL(url)
    async with Proxy(lambda: asyncio.open_connection(parts.host, parts.port)) as proxy:
        yield proxy, f"mongodb://127.0.0.1:{proxy.port}/holdfast.emails?directConnection=true"
