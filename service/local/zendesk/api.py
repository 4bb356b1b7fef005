"""The stand-in's API: comments, tickets, users, attachments, and the account's rate limit.

https://developer.zendesk.com/api-reference/ticketing/tickets/ticket_comments/
https://developer.zendesk.com/api-reference/introduction/rate-limits/
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from service.local.zendesk import exports, ticket_search
from service.local.zendesk.access import STATE, answer_of, signed_in, unauthenticated
from service.local.zendesk.state import AGENT_ID, StandInState, describe

_MOST = 100  # comments of a page, or ids of one request
_ANONYMOUS = {"id": None, "name": "Anonymous user", "role": "end-user"}

Json = dict[str, object]


def add_endpoints(app: web.Application) -> None:
    for path, handler in _ENDPOINTS.values():
        for suffix in ("", ".json"):
            app.router.add_get(f"/api/v2/{path}{suffix}", handler, allow_head=False)


@web.middleware
async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the calls of the API, apply the next scripted fault, and keep the account's rate limit."""
    if not request.path.startswith("/api/"):
        return await handler(request)
    state = request.app[STATE]
    state.api_calls += 1
    state.calls[_NAMES.get(request.match_info.handler, "unknown")] += 1
    wait, limits = state.take_call()
    if state.api_faults and (scripted := await answer_of(state.api_faults.popleft())):
        response: web.StreamResponse = scripted
    elif wait is not None:
        response = _too_many(wait)
    else:
        response = await handler(request)
        response.headers.update(state.api_headers)
    for name, value in limits.items():
        response.headers.setdefault(name, value)
    return response


def _too_many(wait: int) -> web.Response:
    described = "Number of allowed API requests per minute exceeded"
    response = _refuse(429, "APIRateLimitExceeded", described)
    response.headers["Retry-After"] = str(wait)
    return response


async def _comments(request: web.Request) -> web.Response:
    if not signed_in(request):
        return unauthenticated()
    state = request.app[STATE]
    state.lookups[request.match_info["ticket"]] += 1
    if request.match_info["ticket"] in state.restricted:
        return _refuse(403, "Forbidden", "You do not have access to this page")
    found = state.comments.get(request.match_info["ticket"])
    if found is None:
        return _not_found()
    sort = request.query.get("sort", "created_at")
    size, after = request.query.get("page[size]", str(_MOST)), request.query.get("page[after]")
    if sort.lstrip("-") != "created_at" or not (size.isdecimal() and 1 <= int(size) <= _MOST):
        return _bad_page("sort must be created_at or -created_at, and page[size] 1 to 100")
    ordered = sorted(found, key=_time_and_id, reverse=sort.startswith("-"))
    start = _start(ordered, sort, after)
    if start is None:
        return _bad_page("page[after] is not valid")
    page = ordered[start : start + int(size)]
    has_more = start + len(page) < len(ordered)
    cursor = _cursor(sort, page[-1]) if has_more else None
    following = request.rel_url.update_query({"page[size]": size, "page[after]": cursor or ""})
    answer: Json = {"comments": _shown(state, page, with_inline=_asks(request, "include_inline_images"))}
    if "users" in request.query.get("include", "").split(","):
        answer["users"] = _users_of(state, page)
    answer["meta"] = {"has_more": has_more, "after_cursor": cursor, "before_cursor": None}
    answer["links"] = {"prev": None, "next": f"{state.account_url}{following}" if has_more else None}
    return web.json_response(answer)


def _time_and_id(comment: Json) -> tuple[str, int]:
    return str(comment["created_at"]), int(str(comment["id"]))


def _cursor(sort: str, comment: Json) -> str:
    return base64.urlsafe_b64encode(f"{sort}|{comment['id']}".encode()).decode()


def _start(ordered: Sequence[Json], sort: str, cursor: str | None) -> int | None:
    """Return the index of a page's first comment; None for a cursor that is invalid or of another order."""
    if not cursor:
        return 0
    try:
        made_for, _, last = base64.urlsafe_b64decode(cursor).decode().partition("|")
    except (binascii.Error, ValueError):
        return None
    if made_for != sort:
        return None
    return next((index for index, one in enumerate(ordered, 1) if str(one["id"]) == last), None)


def _asks(request: web.Request, name: str) -> bool:
    return request.query.get(name) == "true"


def _shown(state: StandInState, page: Sequence[Json], *, with_inline: bool) -> Sequence[Json]:
    """Return the comments as listed: with living addresses, and inline images only on request."""
    state.renew_addresses(page)
    return page if with_inline else [_without_inline_images(comment) for comment in page]


def _without_inline_images(comment: Json) -> Json:
    attachments = comment["attachments"]
    assert isinstance(attachments, list)  # noqa: S101 `add_comment` made it
    return {**comment, "attachments": [one for one in attachments if not one["inline"]]}


def _users_of(state: StandInState, page: Sequence[Json]) -> list[Json]:
    """Return the users that comments name, each once: authors and e-mail CCs."""
    ids: dict[object, None] = {}
    for comment in page:
        ids[comment["author_id"]] = None
        match comment["via"]:
            case {"source": {"to": {"email_ccs": [*named]}}}:
                ids.update(dict.fromkeys(named))
    return [state.users[one] for one in ids if isinstance(one, int) and one in state.users]


async def _ticket(request: web.Request) -> web.Response:
    if not signed_in(request):
        return unauthenticated()
    if request.match_info["ticket"] in request.app[STATE].restricted:
        return _refuse(403, "Forbidden", "You do not have access to this page")
    ticket = request.app[STATE].tickets.get(request.match_info["ticket"])
    return web.json_response({"ticket": ticket}) if ticket else _not_found()


async def _many_tickets(request: web.Request) -> web.Response:
    state = request.app[STATE]
    return _many(request, "tickets", state.tickets.get)


async def _many_users(request: web.Request) -> web.Response:
    state = request.app[STATE]
    return _many(request, "users", lambda number: state.users.get(int(number)))


def _many(request: web.Request, name: str, find: Callable[[str], Json | None]) -> web.Response:
    """Return those that exist of at most 100 ids."""
    if not signed_in(request):
        return unauthenticated()
    ids = [number.strip() for number in request.query.get("ids", "").split(",")]
    if len(ids) > _MOST or not all(number.isdecimal() for number in ids):
        return _refuse(400, "BadRequest", "ids must be 1 to 100 numbers, separated by commas")
    found = [one for number in dict.fromkeys(ids) if (one := find(number)) is not None]
    return web.json_response({name: found, "next_page": None, "previous_page": None, "count": len(found)})


async def _about_attachment(request: web.Request) -> web.Response:
    if not signed_in(request):
        return unauthenticated()
    state = request.app[STATE]
    for file in list(state.files.values()):
        if str(file.id) == request.match_info["id"]:
            if state.has_died(file, file.token):
                state.expire(file.path)
            return web.json_response({"attachment": describe(state, file)})
    return _not_found()


async def _current_user(request: web.Request) -> web.Response:
    """Return the user; without credentials, the anonymous one, as Zendesk does."""
    state = request.app[STATE]
    if signed_in(request):
        return web.json_response({"user": state.users[AGENT_ID]})
    return web.json_response({"user": {**_ANONYMOUS, "url": f"{state.account_url}/api/v2/users/me.json"}})


def _refuse(status: int, error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "description": description}, status=status)


def _not_found() -> web.Response:
    return _refuse(404, "RecordNotFound", "Not found")


def _bad_page(detail: str) -> web.Response:
    error = {
        "code": "InvalidPaginationParameter",
        "title": "Invalid pagination parameter",
        "detail": detail,
    }
    return web.json_response({"errors": [error]}, status=400)


_ENDPOINTS: dict[str, tuple[str, Callable[[web.Request], Awaitable[web.Response]]]] = {
    "comments": (r"tickets/{ticket:\d+}/comments", _comments),
    "ticket": (r"tickets/{ticket:\d+}", _ticket),
    "tickets/show_many": ("tickets/show_many", _many_tickets),
    "users/show_many": ("users/show_many", _many_users),
    "users/me": ("users/me", _current_user),
    "search/export": ("search/export", ticket_search.export),
    "attachment": (r"attachments/{id:\d+}", _about_attachment),
    **exports.ENDPOINTS,
}
_NAMES: dict[object, str] = {handler: name for name, (_, handler) in _ENDPOINTS.items()}
