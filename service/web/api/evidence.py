"""The API of the evidence log."""

from aiohttp import web

from service.queries.evidence import EvidenceView, get_evidence
from service.web.handling.keys import RES
from service.web.handling.requests import reply
from service.web.handling.routes import Routes

routes = Routes("Evidence")


@routes.get("/api/v1/evidence", answer=EvidenceView)
async def show_evidence(request: web.Request) -> web.Response:
    """Tell the size of the log, its newest signed head, where that was put, and the last verification."""
    res = request.app[RES]
    return await reply(request, get_evidence(res.engine, res.settings))
