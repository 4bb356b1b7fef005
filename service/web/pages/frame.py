"""The frame of every page: the person's rights, and a notice of the last action."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web

from service.web.handling.keys import IDENTITY
from service.web.handling.rendering import render

# An address names one of these notices, and never brings text of its own.
NOTICES: Mapping[str, str] = MappingProxyType(
    {
        "retried": "Retry queued. Stored files are not downloaded again.",
        "sync_begun": "Sync queued. The job is not run again.",
        "syncs_begun": "Bulk sync started. It goes on without this page.",
        "bulk_begun": "Bulk retry started. It goes on without this page.",
        "bulk_cancelled": "Cancelled: no more e-mails are queued.",
        "dismissed": "Dismissed: it needs no attention any more.",
        "undismissed": "Not dismissed any more: it needs attention again.",
        "dismissal_begun": "Dismissal started. It goes on without this page.",
        "undismissal_begun": "Undismissal started. It goes on without this page.",
        "erasure_begun": "Erasure started. It goes on without this page.",
        "erased": "The request was about an erased e-mail, and is deleted.",
        "hold_set": "Hold set: nothing that it covers may be deleted.",
        "hold_released": "Hold released: what it covered may be deleted again.",
        "rules_saved": "Saved: the new rules are in force.",
        "login_revoked": "Revoked: this command is signed out.",
        "filter_saved": "Saved for everybody.",
        "filter_removed": "Removed.",
        "zone_chosen": "Chosen for this browser.",
        "repair_begun": "Repair started: the next reconciliation says whether it helped.",
        "search_begun": "Search started. It goes on without this page.",
        "none_selected": "Nothing was selected: mark e-mails in the list first.",
        "acknowledged": "Noted: others see who looks after it.",
        "unacknowledged": "The note is removed.",
        "replayed": "Replayed as this e-mail.",
        "replayed_before": "The request already is this e-mail.",
        "corrected": "Replayed with the corrected body. The original stays in quarantine's record.",
        "replays_begun": "Replay started. It goes on without this page.",
        "ignored": "The event's type is not used: it is no e-mail.",
    }
)


async def show(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:  # noqa: ANN401 templates take any value
    """Fill a template; it also sees `notice`, and `may_act`: whether this person may use buttons."""
    known = {
        "notice": NOTICES.get(request.query.get("notice", ""), ""),
        "may_act": request[IDENTITY].role == "operator",
    }
    return await render(request, template, status=status, **known, **values)


def redirect(path: str, notice: str) -> web.Response:
    """Redirect to one of our pages after a POST, with a notice."""
    headers = {"Location": f"{path}?notice={notice}", "Cache-Control": "no-store"}
    return web.Response(status=303, headers=headers)
