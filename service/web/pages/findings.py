"""What each kind of finding means, and the button that repairs it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from aiohttp import web

from service.operate.repair import REFETCHED, SYNCED, repair_finding
from service.postgres.selection import MOST_IDS
from service.queries.reconciliations import FindingView
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import ask, number
from service.web.handling.routes import Routes
from service.web.pages import filters
from service.web.pages.frame import redirect

routes = Routes()

SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        "missing": "The e-mail is finished here, and the target has no document of it.",
        "different": "The target's document differs from the e-mail here, or is older.",
        "ahead": "The target has a later version than Postgres, as after a restore of Postgres.",
        "extra": "The target has a document of Holdfast whose e-mail is not here.",
        "not_sent": "The e-mail finished before there was a target, and was never sent to it.",
        "object_missing": "A stored file, or a part of the message, is gone from the storage.",
        "object_damaged": "A stored file, or a part of the message, has other bytes than those that were stored.",
        "object_unreadable": "The storage has the object, and does not give it out.",
        "foreign": "The collection has a document that is not of Holdfast. Nothing is to be done.",
        "unclaimed": "The storage has an object that no e-mail names. Nobody can tell whose it is: it may be of an e-mail that was erased.",
    }
)
# Where no button repairs one difference alone.
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "ahead": "holdfast reconcile --fix",
        "extra": "holdfast reconcile --fix",
        "object_damaged": "holdfast storage verify --fix",
    }
)
BUTTONS: Mapping[str, str] = MappingProxyType(
    {**dict.fromkeys(SYNCED, "Sync again"), **dict.fromkeys(REFETCHED, "Fetch again")}
)


def plan_of_syncs(findings: Sequence[FindingView]) -> tuple[int, str] | None:
    """Return how many e-mails of these findings a sync repairs, and the address of its plan; None below two."""
    open_ones = (each for each in findings if each.is_open and not each.dismissal and each.kind in SYNCED)
    ids = list(dict.fromkeys(each.email_id for each in open_ones if each.email_id is not None))[:MOST_IDS]
    if len(ids) < 2:
        return None
    return len(ids), filters.address({"what": "sync", "ids": ",".join(map(str, ids))}, "/retries/plan")


@routes.post("/reconciliations/{id}/findings/{finding}/repair")
async def repair(request: web.Request) -> web.Response:
    run_id, finding_id = number(request, "id"), number(request, "finding")
    await ask(request, repair_finding(request.app[RES], finding_id, request[IDENTITY].actor))
    return redirect(f"/reconciliations/{run_id}", "repair_begun")
