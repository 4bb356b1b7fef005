"""Unexpected errors reach Sentry, an HTTP server here; secrets and expected errors do not."""

import asyncio
import gzip
import json
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import brotli
import pytest
import structlog
from aiohttp import web
from pydantic import SecretStr

from service.capture.attempt import process
from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources, open_resources
from service.storage.objects import Storage
from service.telemetry import logs
from service.telemetry.exporters import report
from service.zendesk.signature import INVOCATION_ID
from tests.conftest import Server, serving
from tests.support.files import PDF


@dataclass
class Sentry:
    """The received events."""

    dsn: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    hangs: bool = False

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.hangs:
            await self.may_end.wait()
        unpack = {"gzip": gzip.decompress, "br": brotli.decompress}.get(
            request.headers.get("Content-Encoding", "")
        )
        if unpack is not None:
            body = unpack(body)
        lines = body.split(b"\n")
        for head, item in zip(lines[1::2], lines[2::2], strict=False):
            if json.loads(head)["type"] == "event":
                self.events.append(json.loads(item))
        return web.json_response({"id": "0" * 32})


@asynccontextmanager
async def listening() -> AsyncIterator[Sentry]:
    sentry = Sentry()
    app = web.Application()
    app.router.add_post("/api/1/envelope/", sentry.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sentry.dsn = f"http://public@127.0.0.1:{runner.addresses[0][1]}/1"
    try:
        yield sentry
    finally:
        sentry.may_end.set()
        await runner.cleanup()


@pytest.fixture
async def sentry() -> AsyncIterator[Sentry]:
    logs.configure("json", "INFO", report)
    async with listening() as sentry:
        yield sentry


@asynccontextmanager
async def reporting(sentry: Sentry, settings: Settings) -> AsyncIterator[Resources]:
    async with open_resources(settings.model_copy(update={"sentry_dsn": SecretStr(sentry.dsn)})) as res:
        yield res


class Broken:
    """A storage with an unexpected fault."""

    async def ready(self) -> None:
        pass

    def spool_file(self) -> None:
        raise self.fault

    token = secrets.token_hex()
    fault = LookupError(f"of https://acme.zendesk.com/attachments/token/{token}/?name=x for mara")

    async def write(self, _spool: object) -> None:
        raise self.fault


async def test_a_broken_attempt_is_reported_with_its_invocation_and_no_secret(
    client: Server, sentry: Sentry, settings: Settings, zendesk: Zendesk
) -> None:
    file = zendesk.add_file("a.pdf", PDF)
    receipt = await client.send(zendesk.payload(attachments=[file]), headers={INVOCATION_ID: "invocation-1"})
    async with reporting(sentry, settings) as res:
        await process(replace(res, storage=cast("Storage", Broken())), receipt["email_id"], 1)

    (event,) = sentry.events
    assert event["tags"] == {"event": "attachment_broke", "invocation": "invocation-1"}
    (error,) = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("LookupError", "of https://acme.zendesk.com/… for mara")
    assert event["contexts"]["fields"] == {"email": receipt["email_id"], "attempt": 1, "position": 0}
    assert event["release"].startswith("holdfast@")
    text = json.dumps(event)
    assert not {"request", "user", "modules", "extra"} & event.keys()
    assert not event["breadcrumbs"]["values"]
    assert '"vars"' not in text
    for secret in (zendesk.secret, zendesk.api_token, Broken.token, file, "Invoice for November"):
        assert secret not in text


async def test_expected_errors_are_not_reported(
    client: Server, sentry: Sentry, settings: Settings, zendesk: Zendesk
) -> None:
    file = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=500)])
    receipt = await client.send(zendesk.payload(attachments=[file]))
    async with reporting(sentry, settings) as res:
        await process(res, receipt["email_id"], 1)
        structlog.get_logger().warning("heartbeat_failed", code="database_unavailable")

    assert not sentry.events


async def test_tracebacks_of_libraries_are_reported(sentry: Sentry, settings: Settings) -> None:
    async with reporting(sentry, settings):
        logging.getLogger("aiohttp.server").error(
            "Error handling request from 192.0.2.1", exc_info=ZeroDivisionError()
        )

    (event,) = sentry.events
    assert event["exception"]["values"][0]["type"] == "ZeroDivisionError"
    assert event["tags"]["event"] == "aiohttp.server"
    assert "192.0.2.1" not in json.dumps(event)


async def test_invalid_http_is_not_reported(
    sentry: Sentry, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    own = settings.model_copy(update={"sentry_dsn": SecretStr(sentry.dsn)})
    async with serving(own, zendesk) as client:
        host, port = client.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
        assert b"400" in await reader.readline()
        writer.close()
        await writer.wait_closed()

    assert not sentry.events


async def test_a_hanging_sentry_delays_nothing(sentry: Sentry, settings: Settings) -> None:
    sentry.hangs = True
    async with asyncio.timeout(60), reporting(sentry, settings):
        began = asyncio.get_running_loop().time()
        for number in range(3):
            structlog.get_logger().error("request_failed", exc_info=LookupError(number))
    took = asyncio.get_running_loop().time() - began

    assert took < 20


async def test_without_a_dsn_nothing_is_reported(sentry: Sentry, settings: Settings) -> None:
    async with open_resources(settings):
        structlog.get_logger().error("request_failed", exc_info=LookupError())

    assert not sentry.events
