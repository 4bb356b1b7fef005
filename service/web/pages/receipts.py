"""The pages of receipts: a list of purges and erasures, and what each of them removed."""

from aiohttp import web

from service.queries import receipts
from service.queries.pages import PageFilter
from service.web.handling.keys import RES
from service.web.handling.requests import ask, number
from service.web.handling.routes import Routes
from service.web.pages import filters
from service.web.pages.frame import show

routes = Routes()


@routes.get("/receipts")
async def list_receipts(request: web.Request) -> web.Response:
    wanted = filters.parameters(request, PageFilter)
    page = await ask(request, receipts.list_receipts(request.app[RES].engine, wanted))
    onward = page.next_cursor and filters.address({"cursor": page.next_cursor}, request.path)
    return await show(request, "receipts.html", page=page, onward=onward)


@routes.get("/receipts/{id}")
async def show_receipt(request: web.Request) -> web.Response:
    receipt = await ask(request, receipts.get_receipt(request.app[RES].engine, number(request, "id")))
    return await show(request, "receipt.html", receipt=receipt)
