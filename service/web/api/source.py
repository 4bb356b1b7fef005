"""The API of the ledger: what Zendesk itself lists, against the e-mails that are here."""

from aiohttp import web

from service.queries import source
from service.queries.source import Ledger, SourceFilter
from service.web.handling.keys import RES
from service.web.handling.requests import parameters, reply
from service.web.handling.routes import Routes

routes = Routes("Complete")


@routes.get("/api/v1/source", query=SourceFilter, answer=Ledger)
async def show_source(request: web.Request) -> web.Response:
    """Tell whether every e-mail that Zendesk has is kept, day by day."""
    res, wanted = request.app[RES], parameters(request, SourceFilter)
    return await reply(request, source.get_ledger(res.engine, res.settings, wanted))
