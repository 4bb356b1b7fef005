"""The API of reconciliations: what was compared, and what differed."""

from aiohttp import web

from service.queries import reconciliations
from service.queries.pages import PageFilter
from service.web.handling.exchange import answer, ask, number, parameters
from service.web.handling.keys import RES


async def list_reconciliations(request: web.Request) -> web.Response:
    wanted = parameters(request, PageFilter)
    return answer(
        request, await ask(request, reconciliations.list_reconciliations(request.app[RES].engine, wanted))
    )


async def show_reconciliation(request: web.Request) -> web.Response:
    run_id, wanted = number(request, "id"), parameters(request, PageFilter)
    return answer(
        request,
        await ask(request, reconciliations.get_reconciliation(request.app[RES].engine, run_id, wanted)),
    )
