"""The API of receipts: what purges and erasures removed.

Both are lasting records: nothing changes them from outside.
"""

from aiohttp import web

from service.queries import receipts
from service.queries.pages import PageFilter
from service.queries.receipts import ReceiptPage, ReceiptView
from service.web.handling.keys import RES
from service.web.handling.requests import number, parameters, reply
from service.web.handling.routes import Routes

routes = Routes("Custody")


@routes.get("/api/v1/receipts", query=PageFilter, answer=ReceiptPage)
async def list_receipts(request: web.Request) -> web.Response:
    """List the receipts of purges and erasures, newest first."""
    wanted = parameters(request, PageFilter)
    return await reply(request, receipts.list_receipts(request.app[RES].engine, wanted))


@routes.get("/api/v1/receipts/{id}", answer=ReceiptView)
async def show_receipt(request: web.Request) -> web.Response:
    """Show a receipt: its numbers, what is still under way, and the hash of the list of what was removed."""
    return await reply(request, receipts.get_receipt(request.app[RES].engine, number(request, "id")))
