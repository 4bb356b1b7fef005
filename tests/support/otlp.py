"""A collector of traces that speaks OTLP over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """The received spans, and the `resource` that they name."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.asked = asyncio.Event()
        self.hangs = False
        self.may_end = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.asked.set()
        if self.hangs:
            await self.may_end.wait()
        for each in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            names = {attribute.key: attribute.value.string_value for attribute in each.resource.attributes}
            self.services.add(names["service.name"])
            self.spans += [span for scope in each.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        collector.may_end.set()
        await runner.cleanup()
