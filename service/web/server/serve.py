"""The server of the application, in one process or several."""

import asyncio
import gc
import signal
import socket
from collections.abc import Sequence

import structlog
import uvloop
from aiohttp import web

from service.config.limits import raise_file_limit
from service.config.settings import Settings
from service.resources import background, connection_limits
from service.telemetry import logs
from service.telemetry.alive import watchdog
from service.telemetry.exporters import report
from service.telemetry.version import commit, version
from service.web.app import create_app
from service.web.handling.keys import RES
from service.web.plain_webhooks import Runner
from service.web.server.connections import Connections, most_connections
from service.web.server.prefork import keep_running
from service.web.server.sockets import restore_counters

# A platform kills a process 30 s after SIGTERM.
SHUTDOWN_SECONDS = 20.0
# Heroku's router keeps idle connections for 90 s: it must never send a webhook on a closed one.
KEEP_ALIVE_SECONDS = 95.0
# Limits of a request's head; Zendesk's, with a router's headers, is under 2 kB.
MOST_LINE_BYTES = 4096
MOST_HEADERS = 64
# An event loop blocked for so long has lost every webhook of that time.
HANG_SECONDS = 30.0

log = structlog.get_logger()


def serve(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    """Serve until SIGTERM or SIGINT; then stop accepting and finish running requests."""
    logs.configure(settings.log_format, settings.log_level, report, is_final=True)
    log.info("web_starting", **connection_limits(settings, settings.web_concurrency))
    raise_file_limit()
    log.info("started", process="web", version=version(), commit=commit())
    app = create_app(settings)  # before processes are forked, which share it
    gc.freeze()  # collections skip the loaded modules, and forked processes share their memory
    gc.set_threshold(
        50_000, 20, 100
    )  # requests leave hardly any cycles; the search costs a tenth of the time
    if settings.web_concurrency == 1:
        _run(app, sockets)
    else:
        keep_running(lambda parent: _run(app, sockets, parent), settings.web_concurrency, sockets)


def _run(app: web.Application, sockets: Sequence[socket.socket], parent: int | None = None) -> None:
    restore_counters()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, sockets, parent))


async def _serve(app: web.Application, sockets: Sequence[socket.socket], parent: int | None) -> None:
    """Serve on the sockets until a signal, or until the parent process ends."""
    ending, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    if parent is not None:  # the pipe closes with the parent
        loop.add_reader(parent, ending.set)
    runner = _Runner(
        app,
        access_log=None,
        auto_decompress=False,
        shutdown_timeout=SHUTDOWN_SECONDS,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        max_line_size=MOST_LINE_BYTES,
        max_field_size=MOST_LINE_BYTES,
        max_headers=MOST_HEADERS,
    )
    async with background(lambda: watchdog(HANG_SECONDS)):
        try:
            await runner.setup()
            server = runner.connections
            async with background(server.close_overdue):
                for listener in sockets:
                    server.listen(listener)
                await ending.wait()
                await server.stop()
        finally:
            if parent is not None:
                loop.remove_reader(parent)
            await runner.cleanup()


class _Runner(Runner):
    """A runner of the application whose server limits its connections."""

    @property
    def connections(self) -> Connections:
        assert isinstance(self.server, Connections)  # noqa: S101 `setup` has run
        return self.server

    async def _make_server(self) -> web.Server:
        return Connections(await super()._make_server(), most_connections(self.app[RES].settings))
