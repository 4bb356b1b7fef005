"""What a row in the tables of routes says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp.typedefs import Handler
from pydantic import BaseModel


@dataclass(frozen=True, kw_only=True)
class Page:
    """A way to a handler; without a token, unless it is open."""

    method: str
    path: str
    handler: Handler
    is_open: bool = False


@dataclass(frozen=True, kw_only=True)
class Route(Page):
    """A way of the API, with all that its description says of it."""

    tag: str
    summary: str
    query: type[BaseModel] | None = None  # given to `parameters`
    body: type[BaseModel] | None = None  # given to `body`
    answer: type[BaseModel] | None = None  # None for what is not JSON
    media_type: str = "application/json"  # of the answer
    status: int = 200
    also: tuple[int, ...] = ()  # other statuses that come with the same answer
    elsewhere: str = ""  # when it answers with 302 and an address instead
    # When it answers with which error, where that goes beyond what all with a query, a body or a path do.
    errors: Mapping[int, str] = field(default_factory=dict)
    is_signed: bool = False  # by Zendesk
