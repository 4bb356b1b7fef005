"""How much of one e-mail, or of one request in quarantine, its page shows: a browser chokes on a subject of 1 MB."""

from collections.abc import Sequence
from typing import TypeVar

from service.queries.views import EmailDetail, View

MOST_TEXT = 10_000  # characters
MOST_PART_TEXT = 1_000  # of a file or an attempt, of which there may be many
MOST_PARTS = 200

Shown = TypeVar("Shown", bound=View)


def shortened(view: Shown, most: int = MOST_TEXT) -> Shown:
    """Cut its texts to so many characters; the view itself is returned where all of them are short."""
    values = {name: getattr(view, name) for name in type(view).model_fields}
    long = {name: value for name, value in values.items() if isinstance(value, str) and len(value) > most}
    if not long:
        return view
    return view.model_copy(update={name: f"{value[:most]}…" for name, value in long.items()})


def shortened_email(email: EmailDetail) -> tuple[EmailDetail, bool]:
    """Cut an e-mail's texts, and those of the first files and the last attempts; tell whether anything was cut."""
    shown = shortened(email).model_copy(
        update={
            "attachments": _parts(email.attachments[:MOST_PARTS]),
            "attempts": _parts(email.attempts[-MOST_PARTS:]),
            "actions": _parts(email.actions),
        }
    )
    return shown, shown != email


def _parts(views: Sequence[Shown]) -> Sequence[Shown]:
    parts = [shortened(view, MOST_PART_TEXT) for view in views]
    return views if parts == [*views] else parts  # a tuple stays one, which no list equals
