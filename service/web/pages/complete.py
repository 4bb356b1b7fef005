"""The page Complete: is every e-mail that Zendesk has kept here, day by day."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.backfill.record import History
from service.backfill.requests import begin
from service.postgres.selection import MOST_IDS
from service.queries.days import ListName
from service.queries.remarks import get_remarks
from service.queries.source import Ledger, SourceFilter, get_ledger
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import ask, form
from service.web.handling.routes import Routes
from service.web.pages import filters
from service.web.pages.frame import show

routes = Routes()


class SearchForm(BaseModel):
    """The form of a search: a day in UTC, or none for the current search."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    day: date | None = Field(None, lt=date.max)

    @field_validator("day", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None


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
# What each number of a day means.
SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        "in_zendesk": "in Zendesk: comments by e-mail that it lists for this day.",
        "kept": "kept: here, with all files.",
        "in_work": "in work: here, with files that are still being fetched.",
        "failed": "failed: here without all files. Retry them once the cause is gone, or dismiss them.",
        "missing": "missing: in Zendesk, and not here. A search of this day keeps them.",
        "dismissed": "dismissed: failed, and a person said that nobody can repair them.",
        "suspended": "suspended: held back by Zendesk without a ticket. Recover or delete them there.",
        "unread": "tickets not read: Zendesk does not show them to the credentials, so their e-mails are not known.",
        "unlisted": "not in Zendesk: here, and not listed there any more.",
    }
)
_TONES = {"complete": "good", "in_work": "busy", "incomplete": "warn", "unknown": "none"}


@routes.get("/complete")
async def show_complete(request: web.Request) -> web.Response:
    """Show the verdict, the search, the days, and what else Zendesk holds; or one day with a list."""
    res, wanted = request.app[RES], filters.parameters(request, SourceFilter)
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


@routes.post("/complete/search")
async def search_again(request: web.Request) -> web.Response:
    """Search Zendesk again: a day, or else from where the last search ended."""
    given, res = await form(request, SearchForm), request.app[RES]
    wanted = None
    if given.day is not None:
        since = datetime.combine(given.day, time(), UTC)
        wanted = History(since, since + timedelta(days=1), dry_run=False)
    await ask(request, begin(res, wanted, request[IDENTITY].actor))
    path = f"/complete?day={given.day}&" if given.day else "/complete?"
    return web.Response(
        status=303, headers={"Location": f"{path}notice=search_begun", "Cache-Control": "no-store"}
    )


def _plan_of_retry(ledger: Ledger) -> tuple[int, str] | None:
    """Return how many failed e-mails the list has, and the address of the plan to retry them."""
    failed = [each.email_id for each in ledger.emails or () if each.state == "failed" and each.email_id]
    ids = [str(email_id) for email_id in dict.fromkeys(failed)][:MOST_IDS]
    return (len(ids), filters.address({"ids": ",".join(ids)}, "/retries/plan")) if ids else None


def _of_day(ledger: Ledger, wanted: SourceFilter, day: date) -> dict[str, Any]:
    """Return the contents of the page of a day."""
    own = {"day": day, **({"account": wanted.account} if wanted.account else {})}

    def address(name: str, **more: str) -> str:
        return filters.address({**own, "list": name, **more}, "/complete")

    counts = ledger.days[0] if ledger.days else None
    return {
        "day": day,
        "counts": counts,
        "sentences": SENTENCES,
        "retry": _plan_of_retry(ledger),
        "emails": ledger.emails or (),
        "tabs": [(title, address(name), name == wanted.list) for name, title in LISTS],
        "onward": ledger.next_cursor and address(wanted.list, cursor=ledger.next_cursor),
    }
