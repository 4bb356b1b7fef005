"""Routes stand at their handlers as decorators; the router and the API's description are both made of them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar, Unpack

from aiohttp.typedefs import Handler
from pydantic import BaseModel

Function = TypeVar("Function", bound=Handler)


class Described(TypedDict, total=False):
    """The options of a route, explained at `Route`."""

    is_open: bool
    is_signed: bool
    is_for_readers: bool
    query: type[BaseModel]
    body: type[BaseModel]
    answer: type[BaseModel]
    media_type: str
    example: str
    status: int
    also: tuple[int, ...]
    elsewhere: str
    errors: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Route:
    """A path with its handler, and everything that the API's description says about it."""

    method: str
    path: str
    handler: Handler
    tag: str = ""  # the subject in the description; pages have none
    is_open: bool = False  # needs no token
    is_signed: bool = False  # needs Zendesk's signature
    is_for_readers: bool = False  # a `POST` that changes nothing of others
    query: type[BaseModel] | None = None  # the handler gives it to `parameters`
    body: type[BaseModel] | None = None  # the handler gives it to `body`
    answer: type[BaseModel] | None = None  # None for answers that are not JSON
    media_type: str = "application/json"  # of the answer
    example: str = ""  # an answer that is text
    status: int = 200
    also: tuple[int, ...] = ()  # other statuses with the same answer
    elsewhere: str = ""  # when the answer is a redirect (302) to an address
    # Errors beyond those that every route with such a query, body or path has.
    errors: Mapping[int, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (inspect.getdoc(self.handler) or "").partition("\n")[0].removesuffix(".")


class Routes(list[Route]):
    """The routes of a module, in the order of its handlers."""

    def __init__(self, tag: str = "") -> None:
        super().__init__()
        self._tag = tag

    def get(self, path: str, **about: Unpack[Described]) -> Callable[[Function], Function]:
        """Let the decorated function handle `GET` and `HEAD`."""
        return self._add("GET", path, about)

    def post(self, path: str, **about: Unpack[Described]) -> Callable[[Function], Function]:
        return self._add("POST", path, about)

    def _add(self, method: str, path: str, about: Described) -> Callable[[Function], Function]:
        def add(handler: Function) -> Function:
            self.append(Route(method=method, path=path, handler=handler, tag=self._tag, **about))
            return handler

        return add
