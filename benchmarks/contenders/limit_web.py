"""The limit of "Intake": a web process that verifies and parses a webhook, answers 200; it saves, logs and counts nothing."""

import os

import uvloop
from aiohttp import web

from benchmarks.contenders.reading import read


async def receive(request: web.Request) -> web.Response:
    read(request.headers, await request.read())
    return web.json_response({"status": "accepted"})


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/webhooks/zendesk", receive)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )
