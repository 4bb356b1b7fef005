"""Short notes after something was done: an address names one of these, and never brings words of its own."""

from collections.abc import Mapping
from types import MappingProxyType

from aiohttp import web

NOTICES: Mapping[str, str] = MappingProxyType(
    {
        "retried": "It runs again, with fresh attempts. What is stored already is not fetched again.",
        "sync_begun": "It is carried over again. Its job is not run again.",
        "syncs_begun": "The syncs have begun again. Workers go on with them, whether you watch or not.",
        "bulk_begun": "The retry has begun. Workers go on with it, whether you watch or not.",
        "bulk_cancelled": "Cancelled: no more of it is queued.",
        "replayed": "Replayed: this is the e-mail that came of it.",
        "replayed_before": "That request is this e-mail already.",
        "ignored": "It is an event of a type that is not used: there is no e-mail in it.",
    }
)


def read(request: web.Request) -> str:
    return NOTICES.get(request.query.get("notice", ""), "")


def lead(path: str, notice: str) -> web.Response:
    """Lead on to a page of ours after a POST, with a note."""
    return web.Response(
        status=303, headers={"Location": f"{path}?notice={notice}", "Cache-Control": "no-store"}
    )
