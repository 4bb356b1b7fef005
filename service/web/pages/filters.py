"""Filters as they stand in an address: what is chosen, what is wrong with it, and the way to the same with less."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from pydantic import ValidationError

from service.errors import Rejected
from service.postgres.selection import Selection
from service.queries.emails import EmailFilter

# What pages add to an address for themselves.
OWN = ("notice", "live", "page", "what")
# How far a list goes on by itself.
MOST_PAGES = 20


@dataclass(frozen=True)
class Asked:
    """What a page of e-mails was asked for; without `wanted`, `error` says what is wrong with it."""

    values: Mapping[str, str]
    wanted: EmailFilter | None = None
    error: str = ""
    is_live: bool = False
    page: int = 1
    fields: Sequence[str] = field(default=tuple(Selection.model_fields))

    @property
    def chosen(self) -> Mapping[str, str]:
        """What the filter consists of."""
        return {name: value for name, value in self.values.items() if name in self.fields}

    @property
    def filled(self) -> Mapping[str, str]:
        """Return what stands in each field of the form."""
        return {**dict.fromkeys(self.fields, ""), **self.chosen}

    def without(self, *names: str) -> str:
        """Return the address of the first page without these."""
        return address({name: value for name, value in self.chosen.items() if name not in names})

    def live(self, *, wanted: bool) -> str:
        return address({**self.chosen, **({"live": "1"} if wanted else {})})

    def onward(self, cursor: str) -> str:
        return address({**self.chosen, "cursor": cursor, "page": str(self.page + 1)})

    @property
    def goes_on(self) -> bool:
        """Tell whether what comes next is fetched without being asked for."""
        return not self.is_live and self.page < MOST_PAGES

    @property
    def plan(self) -> str:
        return address(self.chosen, "/retries/plan")

    @property
    def plan_of_syncs(self) -> str:
        return address({"what": "sync", **self.chosen}, "/retries/plan")


def address(values: Mapping[str, Any], path: str = "/emails") -> str:
    return f"{path}?{urlencode(values, errors='replace')}" if values else path


def read(request: web.Request) -> Asked:
    """Read the query; fields of a form that were left empty are none."""
    values = {name: value.strip() for name, value in request.query.items() if value.strip()}
    own = {name: values.pop(name, "") for name in OWN}
    page = int(own["page"]) if own["page"].isascii() and own["page"].isdigit() and len(own["page"]) < 6 else 1
    try:
        wanted = EmailFilter.model_validate(values)
        wanted.after()
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        return Asked(values, error=f"{error['loc'][0]}: {error['msg']}")
    except Rejected as exc:
        return Asked(values, error=exc.message)
    return Asked(values, wanted, is_live=own["live"] == "1" and not wanted.cursor, page=page)
