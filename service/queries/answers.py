"""Read the API's answers back into the views that they were made of."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from service.queries.views import View

V = TypeVar("V", bound=View)
Json = dict[str, Any]


def read_answer(kind: type[V], answer: object) -> V:
    """Make a view of an answer; unknown fields are left out. Raises ValueError if a field is missing or wrong.

    An answer leaves out a few columns of its view, or has them in another form.
    """
    try:
        return kind.model_validate(_restored(answer))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, error["loc"]))
        raise ValueError(f"{where}: {error['msg']}") from None


def _restored(part: Any) -> Any:  # noqa: ANN401 JSON
    if isinstance(part, list):
        return [_restored(each) for each in part]
    if not isinstance(part, dict):
        return part
    found = {name: _restored(value) for name, value in part.items()}
    if isinstance(found.get("dismissal"), dict):
        found |= _dismissal(found, found["dismissal"])
    email_id = found.get("id")
    for name, restore in _OF_EMAILS.items():
        value = found.get(name)
        if isinstance(value, dict):
            found[name] = restore(value, email_id)
        elif isinstance(value, list):
            found[name] = [restore(each, email_id) if isinstance(each, dict) else each for each in value]
    return found


def _dismissal(found: Mapping[str, Any], dismissal: Mapping[str, Any]) -> Json:
    return {
        "dismissed_at": dismissal.get("at"),
        "dismissed_by": dismissal.get("by"),
        "dismiss_reason": dismissal.get("reason"),
        "dismissed_attempt": found.get("attempt_number"),
        "dismissed_sync_attempt": found.get("sync_attempt_number"),
    }


def _with_email(part: Json, email_id: object) -> Json:
    return {"email_id": email_id, **part}


def _message(part: Json, email_id: object) -> Json:
    has = {
        "has_html": part.get("html_href") is not None,
        "has_original": part.get("original_href") is not None,
    }
    return {"email_id": email_id, **part, "sender": part.get("from"), **has}


_OF_EMAILS: Mapping[str, Callable[[Json, object], Json]] = {
    "attachments": _with_email,
    "announcements": _with_email,
    "message": _message,
}
