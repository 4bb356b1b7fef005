"""Quarantine over HTTP: what could not be read or was not used, as it came, and reading it again."""

from aiohttp import web

from service import intake
from service.queries import webhooks
from service.queries.webhooks import IgnoredFilter, QuarantineFilter
from service.web.api.answers import Replayed
from service.web.auth.tokens import visible
from service.web.handling.exchange import answer, ask, number, parameters
from service.web.handling.keys import IDENTITY, RES


async def list_quarantined(request: web.Request) -> web.Response:
    wanted = parameters(request, QuarantineFilter)
    return answer(request, await ask(request, webhooks.list_quarantined(request.app[RES].engine, wanted)))


async def show_quarantined(request: web.Request) -> web.Response:
    quarantine_id = number(request, "id")
    found = await ask(request, webhooks.get_quarantined(request.app[RES].engine, quarantine_id))
    return answer(request, visible(request, found))


async def replay(request: web.Request) -> web.Response:
    receipt = await ask(
        request, intake.replay(request.app[RES], number(request, "id"), request[IDENTITY].actor)
    )
    return answer(request, Replayed(status=receipt.status, email_id=receipt.number), status=202)


async def list_ignored(request: web.Request) -> web.Response:
    wanted = parameters(request, IgnoredFilter)
    return answer(request, await ask(request, webhooks.list_ignored(request.app[RES].engine, wanted)))


async def show_ignored(request: web.Request) -> web.Response:
    return answer(
        request, await ask(request, webhooks.get_ignored(request.app[RES].engine, number(request, "id")))
    )


async def replay_ignored(request: web.Request) -> web.Response:
    actor = request[IDENTITY].actor
    receipt = await ask(request, intake.replay(request.app[RES], number(request, "id"), actor, "ignored"))
    return answer(request, Replayed(status=receipt.status, email_id=receipt.number), status=202)
