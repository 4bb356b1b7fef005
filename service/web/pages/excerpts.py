"""Excerpts of an e-mail or a request in quarantine: a browser chokes on a subject of 1 MB."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

from service.queries.views import EmailDetail, View
from service.queries.webhook_views import RequestView

MOST_TEXT = 10_000  # characters
MOST_PART_TEXT = 1_000  # of a file or an attempt: an e-mail may have many
MOST_PARTS = 200
MOST_BODY_TEXT = 200_000
MOST_HEADER = 4096  # the longest that a web process accepts

Shown = TypeVar("Shown", bound=View)


def shortened(view: Shown, most: int = MOST_TEXT) -> Shown:
    """Cut the texts of a view to `most` characters; returns the view itself if all are short."""
    values = {name: getattr(view, name) for name in type(view).model_fields}
    long = {name: value for name, value in values.items() if isinstance(value, str) and len(value) > most}
    if not long:
        return view
    return view.model_copy(update={name: f"{value[:most]}…" for name, value in long.items()})


def shortened_email(email: EmailDetail) -> tuple[EmailDetail, bool]:
    """Keep the first files and the last attempts, cut all texts; tell whether anything was cut."""
    shown = shortened(email).model_copy(
        update={
            "attachments": _parts(email.attachments[:MOST_PARTS]),
            "attempts": _parts(email.attempts[-MOST_PARTS:]),
            "actions": _parts(email.actions),
        }
    )
    return shown, shown != email


def readable(raw: RequestView) -> dict[str, Any]:
    """Return a request as a page shows it: as text, and indented where the body is JSON."""
    pretty = ""
    with suppress(ValueError, RecursionError):
        pretty = _indented(json.loads(raw.body))
    return {
        "headers": [(str(name), str(value)[:MOST_HEADER]) for name, value in raw.headers or ()],
        "body": raw.body[:MOST_BODY_TEXT],
        "pretty": pretty[:MOST_BODY_TEXT],
        "is_cut": max(len(raw.body), len(pretty)) > MOST_BODY_TEXT,
        "is_text": "\ufffd" not in raw.body,
    }


def _parts(views: Sequence[Shown]) -> Sequence[Shown]:
    parts = [shortened(view, MOST_PART_TEXT) for view in views]
    return views if parts == [*views] else parts  # keep the type: a list never equals a tuple


def _indented(data: object) -> str:
    """Indent JSON, as far as it is shown: deep in lists, each number has a line with a thousand spaces."""
    text = ""
    for part in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(data):
        text += part
        if len(text) > MOST_BODY_TEXT:
            break
    return text
