"""The page Complete: is every e-mail that Zendesk has kept here, day by day."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from aiohttp import web

from service.errors import Rejected
from service.queries.days import ListName
from service.queries.remarks import get_remarks
from service.queries.source import Ledger, SourceFilter, get_ledger
from service.web.handling.keys import RES
from service.web.handling.requests import ask
from service.web.handling.routes import Routes
from service.web.pages import filters
from service.web.pages.frame import show

routes = Routes()

# The lists of a day, with their titles.
LISTS: Sequence[tuple[ListName, str]] = (
    ("open", "Missing or failed"),
    ("missing", "Missing"),
    ("failed", "Failed"),
    ("dismissed", "Dismissed"),
    ("in_work", "In work"),
    ("kept", "Kept"),
    ("in_zendesk", "All"),
    ("unlisted", "Not in Zendesk"),
)
_TONES = {"complete": "good", "in_work": "busy", "incomplete": "warn", "unknown": "none"}


@routes.get("/complete")
async def show_complete(request: web.Request) -> web.Response:
    """Show the verdict, the search, the days, and what else Zendesk holds; or one day with a list."""
    res, wanted = request.app[RES], _wanted(request)
    ledger = await ask(request, get_ledger(res.engine, res.settings, wanted))
    if wanted.day is not None:
        return await show(request, "complete_day.html", **_of_day(ledger, wanted, wanted.day))
    return await show(
        request,
        "complete.html",
        ledger=ledger,
        tone="bad"
        if ledger.missing or ledger.unknown_tickets or ledger.unread_tickets
        else _TONES[ledger.state],
        remarks=await ask(request, get_remarks(res.engine)),
        is_first=wanted.before is None,
        older=ledger.next_before and filters.address({"before": ledger.next_before}, "/complete"),
    )


def _wanted(request: web.Request) -> SourceFilter:
    given = {name: value for name, value in request.query.items() if value and name not in filters.OWN}
    try:
        return SourceFilter.model_validate(given)
    except ValueError:
        raise Rejected(400, "bad_parameter", "A parameter in this address is wrong.") from None


def _of_day(ledger: Ledger, wanted: SourceFilter, day: date) -> dict[str, Any]:
    """Return what the page of a day shows."""
    own = {"day": day, **({"account": wanted.account} if wanted.account else {})}

    def address(name: str, **more: str) -> str:
        return filters.address({**own, "list": name, **more}, "/complete")

    counts = ledger.days[0] if ledger.days else None
    return {
        "day": day,
        "counts": counts,
        "emails": ledger.emails or (),
        "tabs": [(title, address(name), name == wanted.list) for name, title in LISTS],
        "onward": ledger.next_cursor and address(wanted.list, cursor=ledger.next_cursor),
    }
