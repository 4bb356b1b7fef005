"""Filters in addresses: parse them, name their errors, and make addresses with other filters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from pydantic import ValidationError

from service.errors import Rejected
from service.postgres.email_tables import NOT_CAPTURED
from service.postgres.selection import Selection, WebhookSelection
from service.queries.emails import EmailFilter
from service.queries.views import EmailView
from service.web.handling.requests import Model, read_parameters

# Parameters that are no filters.
OWN = ("notice", "live", "page", "what", "action", "view")
_FIELDS = tuple(Selection.model_fields)
_TIMES = {"received_after", "received_before"}
# A list loads so many pages by itself.
MOST_PAGES = 20


@dataclass(frozen=True)
class Place:
    """A place on a page of a list, counted from 1, and the addresses of the page and of the e-mails around."""

    address: str
    number: int
    of: int
    before: str | None
    after: str | None


@dataclass(frozen=True)
class EmailQuery:
    """The query of a page of e-mails; if it is wrong, `filter` is None and `error` says why."""

    values: Mapping[str, str]
    filter: EmailFilter | None = None
    error: str = ""
    is_live: bool = False
    page: int = 1

    @property
    def chosen(self) -> Mapping[str, str]:
        """The filter's fields with a value."""
        return {name: value for name, value in self.values.items() if name in _FIELDS}

    @property
    def filled(self) -> Mapping[str, str]:
        """The values of all fields in the form; its times are in UTC, however they were written."""
        given = self.filter.model_dump(include=_TIMES, exclude_none=True) if self.filter else {}
        times = {name: time.isoformat() for name, time in given.items()}
        return {**dict.fromkeys(_FIELDS, ""), **self.chosen, **times}

    def without(self, *names: str) -> str:
        """Return the address of the first page without these filters."""
        return address({name: value for name, value in self.chosen.items() if name not in names})

    def live(self, *, on: bool) -> str:
        return address({**self.chosen, **({"live": "1"} if on else {})})

    def onward(self, cursor: str) -> str:
        return address({**self.chosen, "cursor": cursor, "page": str(self.page + 1)})

    def email(self, email_id: int, *, as_text: bool = False) -> str:
        """Return the address of an e-mail of this list: its page has links to the ones around it here."""
        place = self.here if self.chosen else {}
        return address({**place, **({"view": "text"} if as_text else {})}, f"/emails/{email_id}")

    @property
    def here(self) -> Mapping[str, str]:
        """The filter's fields and the cursor of this page of the list."""
        cursor = {"cursor": self.values["cursor"]} if "cursor" in self.values else {}
        return {**self.chosen, **cursor}

    def place_of(self, email_id: int, emails: Sequence[EmailView]) -> "Place | None":
        """Return the place of an e-mail on this page of the list; None if it is not there any more."""
        ids = [each.id for each in emails]
        if email_id not in ids:
            return None
        at = ids.index(email_id)
        before, after = (
            self.email(ids[place]) if 0 <= place < len(ids) else None for place in (at - 1, at + 1)
        )
        return Place(address(self.here), at + 1, len(ids), before, after)

    @property
    def goes_on(self) -> bool:
        """Whether the list loads its next page by itself."""
        return not self.is_live and self.page < MOST_PAGES

    @property
    def retries(self) -> bool:
        """Whether the jobs of all these e-mails can be retried: a retry never means completed ones beside failed ones."""
        wanted = self.filter
        return wanted is not None and (wanted.status == "failed" or wanted.error_code == NOT_CAPTURED)

    @property
    def plan(self) -> str:
        return address(self.chosen, "/retries/plan")

    @property
    def plan_of_syncs(self) -> str:
        return address({"what": "sync", **self.chosen}, "/retries/plan")

    @property
    def plan_of_dismissal(self) -> tuple[str, str] | None:
        """Return the verb and the address of the plan to dismiss these e-mails, or to undismiss them."""
        if self.filter is None:
            return None
        has_failed = "failed" in (self.filter.status, self.filter.sync_status)
        if not (has_failed or self.filter.dismissed):
            return None
        action = "undismiss" if self.filter.dismissed else "dismiss"
        return action.capitalize(), address({"action": action, **self.chosen}, "/retries/plan")


def address(values: Mapping[str, Any], path: str = "/emails") -> str:
    return f"{path}?{urlencode(values, errors='replace')}" if values else path


def list_of(what: str) -> str:
    """Return the path of the list that a bulk retry is about."""
    return "/quarantine" if what == "webhook" else "/emails"


def onward(request: web.Request, cursor: str | None) -> str | None:
    """Return the address of the next page of a list, if there is one."""
    return cursor and address({**_given(request), "cursor": cursor}, request.path)


def parameters(request: web.Request, kind: type[Model]) -> Model:
    """Read the query of a list, without parameters of the page; raises Rejected (400) as for the API."""
    return read_parameters(_given(request), kind)


def words_of(wanted: Selection | WebhookSelection) -> dict[str, str]:
    """Return the fields of a bulk retry's filter, without the one that leaves dismissed e-mails out as usual."""
    fields = wanted.model_dump(mode="json", exclude_none=True)
    return {
        name: "true" if value is True else str(value) for name, value in fields.items() if value is not False
    }


def read(request: web.Request) -> EmailQuery:
    """Parse the query; ignore empty fields of a form."""
    values = {name: value.strip() for name, value in request.query.items() if value.strip()}
    if "ids" in values:  # each checkbox of a form has a value of its own
        values["ids"] = ",".join(request.query.getall("ids"))
    own = {name: values.pop(name, "") for name in OWN}
    page = int(own["page"]) if own["page"].isascii() and own["page"].isdigit() and len(own["page"]) < 6 else 1
    try:
        email_filter = EmailFilter.model_validate(values)
        email_filter.after()
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        return EmailQuery(values, error=f"{error['loc'][0]}: {error['msg']}")
    except Rejected as exc:
        return EmailQuery(values, error=exc.message)
    return EmailQuery(values, email_filter, is_live=own["live"] == "1" and not email_filter.cursor, page=page)


def _given(request: web.Request) -> dict[str, str]:
    return {name: value for name, value in request.query.items() if value and name not in OWN}
