"""The page of a bulk retry: how far it is, and what became of its e-mails."""

from aiohttp import web

from service.queries.headings import headings_of
from service.queries.retries import get_retry
from service.queries.retry_outcomes import outcomes_of
from service.web.handling.keys import RES
from service.web.handling.requests import ask, number
from service.web.handling.routes import Routes
from service.web.pages import filters
from service.web.pages.frame import show

routes = Routes()


@routes.get("/retries/{id}")
async def show_retry(request: web.Request) -> web.Response:
    """Show a bulk retry, and its newest e-mails that failed again or were repaired."""
    engine, retry_id = request.app[RES].engine, number(request, "id")
    retry = await ask(request, get_retry(engine, retry_id))
    found = await ask(request, outcomes_of(engine, retry_id))
    chosen = filters.words_of(retry.filter)
    return await show(
        request,
        "retry.html",
        retry=retry,
        chosen=chosen,
        selection=filters.address(chosen, filters.list_of(retry.what)),
        lists={
            outcome: [each for each in found if each.outcome == outcome]
            for outcome in ("failed_again", "repaired")
        },
        headings=await ask(request, headings_of(engine, [each.email_id for each in found])),
    )
