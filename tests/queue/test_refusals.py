"""A Redis that refuses a connection is named at once, whatever form REDIS_URL has."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis.exceptions import RedisError

from service.config.settings import Settings
from service.local.drill.proxy import Proxy
from service.local.servers import valkey
from service.local.zendesk.stand_in import Zendesk
from service.queue.arq_queue import ArqQueue, QueueMessage, create_redis, reason_of, try_write
from tests.conftest import serving, working
from tests.support.commands import typed
from tests.support.proxy import behind_tls, self_signed

NO_PASSWORD = "it refuses REDIS_URL without a password"
WRONG = "it refuses the user or the password of REDIS_URL"
FORMS = [
    ("redis://{tcp}", NO_PASSWORD),
    ("redis://{tcp}/1", NO_PASSWORD),
    ("redis://:bad@{tcp}", WRONG),
    ("redis://nobody:bad@{tcp}/1", WRONG),
    ("rediss://{tls}", NO_PASSWORD),
    ("rediss://:bad@{tls}", WRONG),
    ("unix://{path}", NO_PASSWORD),
    ("unix://{path}?db=1", NO_PASSWORD),
    ("unix://:bad@{path}", WRONG),
    ("unix://nobody:bad@{path}", WRONG),
]
RIGHTS = "it gives the user of REDIS_URL too few rights: allow all commands on arq:* and holdfast:*, keys and channels"


@dataclass(frozen=True)
class Guarded:
    """The addresses of a Valkey that needs a password."""

    path: str
    certificate: ssl.SSLContext


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    with valkey(directory / "valkey") as url:
        asyncio.run(set_password(url))
        yield Guarded(urlsplit(url).path, self_signed(directory))


async def set_password(url: str) -> None:
    redis = create_redis(url, pool_size=1)
    await redis.acl_setuser(
        "reader", enabled=True, passwords=["+right-pass"], keys=["*"], categories=["+@read"]
    )
    await redis.acl_setuser(
        "app", enabled=True, passwords=["+right-pass"], keys=["arq:*", "holdfast:*"], categories=["+@all"]
    )
    await redis.config_set("requirepass", "right-pass")
    await redis.aclose(close_connection_pool=True)


@pytest.fixture
async def addresses(guarded: Guarded) -> AsyncIterator[dict[str, str]]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(lambda: asyncio.open_unix_connection(guarded.path)))
        tls = behind_tls(Path(guarded.path), guarded.certificate, asks_first=False)
        port = await stack.enter_async_context(tls)
        yield {"path": guarded.path, "tcp": f"127.0.0.1:{proxy.port}", "tls": f"127.0.0.1:{port}"}


async def error_of(url: str) -> RedisError:
    redis = create_redis(url, pool_size=3)
    try:
        async with asyncio.timeout(5):  # the budget of a check
            with pytest.raises(RedisError) as caught:
                await redis.info()
    finally:
        await redis.aclose(close_connection_pool=True)
    return caught.value


@pytest.mark.parametrize(("form", "reason"), FORMS)
async def test_a_refusal_has_its_reason(form: str, reason: str, addresses: dict[str, str]) -> None:
    url = form.format(**addresses)

    assert reason_of(await error_of(f"{url}?ssl_cert_reqs=none" if "rediss:" in url else url)) == reason


@pytest.mark.parametrize("form", ["redis://{tcp}", "redis://{tcp}/1", "unix://{path}", "unix://{path}?db=1"])
async def test_a_server_that_ends_each_connection_is_an_outage(form: str, tmp_path: Path) -> None:
    """As a proxy does whose Redis is away."""

    def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    path = str(tmp_path / "ends.sock")
    tcp = await asyncio.start_server(end, "127.0.0.1", 0)
    unix = await asyncio.start_unix_server(end, path)
    port = tcp.sockets[0].getsockname()[1]
    async with tcp, unix:
        error = await error_of(form.format(path=path, tcp=f"127.0.0.1:{port}"))

    assert reason_of(error) == "ConnectionError"


async def test_a_redis_that_has_too_few_replicas_is_named(guarded: Guarded) -> None:
    redis = create_redis(f"unix://:right-pass@{guarded.path}", pool_size=1)
    await redis.config_set("min-replicas-to-write", 1)
    with pytest.raises(RedisError) as caught:
        await try_write(redis)
    await redis.config_set("min-replicas-to-write", 0)
    await redis.aclose(close_connection_pool=True)

    assert reason_of(caught.value) == "it accepts no writes: its log says why"


async def test_a_user_without_the_channel_has_too_few_rights(guarded: Guarded) -> None:
    redis = create_redis(f"unix://app:right-pass@{guarded.path}", pool_size=1)
    with pytest.raises(RedisError) as caught:
        await ArqQueue(redis).enqueue([QueueMessage("process:1", "process")])
    await redis.aclose(close_connection_pool=True)

    assert reason_of(caught.value) == RIGHTS


@pytest.mark.parametrize(("form", "reason"), [*FORMS, ("unix://reader:right-pass@{path}", RIGHTS)])
async def test_release_refuses_a_redis_url_that_redis_refuses(
    form: str, reason: str, addresses: dict[str, str], settings: Settings
) -> None:
    done = await typed(settings, "release", REDIS_URL=form.format(**addresses), REDIS_VERIFY_TLS="false")

    assert done.returncode == 1
    assert f"wrong redis: {reason}\n" in done.stdout
    assert "nothing was migrated" in done.stderr


@pytest.mark.parametrize("form", ["redis://{tcp}", "unix://{path}"])
async def test_web_and_worker_name_the_refusal_and_the_e_mail_is_captured(
    form: str,
    addresses: dict[str, str],
    settings: Settings,
    zendesk: Zendesk,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = settings.model_copy(update={"redis_url": SecretStr(form.format(**addresses))})
    async with serving(refused, zendesk) as client, working(refused):
        ready = await client.get("/readyz", status=503)
        await client.until((await client.send(zendesk.payload()))["email_id"], "completed")
    said = [line for line in capsys.readouterr().out.splitlines() if re.search("redis_away|dispatch_f", line)]

    assert ready["checks"]["redis"] == {"ok": False, "error": NO_PASSWORD}
    assert {"redis_away", "dispatch_failed"} == {json.loads(line)["event"] for line in said}
    assert {NO_PASSWORD} == {json.loads(line)["error"] for line in said}
