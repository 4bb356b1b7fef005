"""The stand-in's account, `{subdomain}.zendesk.com`: attachments, the comments API and access tokens.

https://developer.zendesk.com/api-reference/ticketing/tickets/ticket_comments/
https://developer.zendesk.com/api-reference/ticketing/oauth/grant_type_tokens/
"""

import asyncio
import base64
import hmac

from aiohttp import web
from aiohttp.typedefs import Handler

from service.local.zendesk.state import Fault, ServedFile, StandInState

_STATE = web.AppKey("state", StandInState)

_SIGN_IN = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Sign in to Zendesk</title></head>
<body><form action="/access/login" method="post"><input name="user[email]"><input name="user[password]" type="password">
<button>Sign in</button></form></body></html>
"""

_ANONYMOUS = {"id": None, "name": "Anonymous user", "role": "end-user"}


def account(state: StandInState) -> web.Application:
    """Return the account's application."""
    app = web.Application(middlewares=[_api])
    app[_STATE] = state
    app.router.add_post("/oauth/tokens", _give_token)
    app.router.add_get("/attachments/token/{token}/", _attachment, allow_head=False)
    for suffix in ("", ".json"):
        app.router.add_get(f"/api/v2/tickets/{{ticket:\\d+}}/comments{suffix}", _comments, allow_head=False)
        app.router.add_get(f"/api/v2/attachments/{{id:\\d+}}{suffix}", _about_attachment, allow_head=False)
        app.router.add_get(f"/api/v2/users/me{suffix}", _current_user, allow_head=False)
    return app


def describe(state: StandInState, file: ServedFile, *, inline: bool = False) -> dict[str, object]:
    """Return an attachment as the API shows it."""
    url = state.account_url + file.path
    return {
        "url": f"{state.account_url}/api/v2/attachments/{file.id}.json",
        "id": file.id,
        "file_name": file.name,
        "content_url": url,
        "mapped_content_url": url,
        "content_type": file.content_type,
        "size": len(file.content),
        "width": None,
        "height": None,
        "inline": inline,
        "deleted": False,
        "malware_access_override": False,
        "malware_scan_result": "malware_not_found",
        "thumbnails": [],
    }


async def answer_of(fault: Fault) -> web.Response | None:
    """Wait as long as a fault says; return its answer, or None for the usual one."""
    await asyncio.sleep(fault.delay_seconds)
    if fault.status is None:
        return None
    return web.Response(status=fault.status, headers=fault.headers, body=fault.body)


@web.middleware
async def _api(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the calls of the API, and apply the next scripted fault."""
    if not request.path.startswith("/api/"):
        return await handler(request)
    state = request.app[_STATE]
    state.api_calls += 1
    if state.api_faults and (scripted := await answer_of(state.api_faults.popleft())):
        return scripted
    response = await handler(request)
    response.headers.update(state.api_headers)
    return response


async def _give_token(request: web.Request) -> web.Response:
    state = request.app[_STATE]
    state.token_requests += 1
    if state.token_faults and (scripted := await answer_of(state.token_faults.popleft())):
        return scripted
    asked = await request.json()
    wanted = {
        "grant_type": "client_credentials",
        "client_id": state.client_id,
        "client_secret": state.client_secret,
    }
    if not state.client_id or any(asked.get(name) != value for name, value in wanted.items()):
        described = "Client authentication failed due to unknown client or invalid credentials"
        return web.json_response({"error": "invalid_client", "error_description": described}, status=401)
    token, life = state.give_token(float(asked.get("expires_in", 1800)))
    answer = {"access_token": token, "token_type": "bearer", "scope": asked.get("scope"), "expires_in": life}
    return web.json_response(answer)


async def _attachment(request: web.Request) -> web.Response:
    state = request.app[_STATE]
    file = state.files.get(request.match_info["token"])
    signed_in = _signed_in(request)
    if file is None:
        return web.Response(status=404, text="Not found")
    file.requests += 1
    if not (file.public or signed_in):
        return _sign_in_page()
    fault = file.faults.popleft() if file.faults else Fault()
    scripted = None if fault.at_cdn else await answer_of(fault)
    if fault.sign_in:
        return _sign_in_page()
    if scripted:
        return scripted
    return web.Response(status=302, headers={"Location": state.add_address(file, fault)})


async def _comments(request: web.Request) -> web.Response:
    if not _signed_in(request):
        return _unauthenticated()
    state = request.app[_STATE]
    all_comments = state.comments.get(request.match_info["ticket"])
    if all_comments is None:
        return web.json_response({"error": "RecordNotFound", "description": "Not found"}, status=404)
    if request.query.get("sort") == "-created_at":
        all_comments = all_comments[::-1]  # the list is in order of creation
    size = min(int(request.query.get("page[size]", 100)), 100)
    start = int(request.query.get("page[after]", 0))
    page, after = all_comments[start : start + size], start + size
    if request.query.get("include_inline_images") != "true":
        page = [_without_inline_images(comment) for comment in page]
    has_more = after < len(all_comments)
    following = request.rel_url.update_query({"page[size]": size, "page[after]": after})
    return web.json_response(
        {
            "comments": page,
            "meta": {"has_more": has_more, "after_cursor": str(after) if has_more else None},
            "links": {"next": f"{state.account_url}{following}" if has_more else None},
        }
    )


async def _about_attachment(request: web.Request) -> web.Response:
    if not _signed_in(request):
        return _unauthenticated()
    state = request.app[_STATE]
    for file in state.files.values():
        if str(file.id) == request.match_info["id"]:
            return web.json_response({"attachment": describe(state, file)})
    return web.json_response({"error": "RecordNotFound", "description": "Not found"}, status=404)


async def _current_user(request: web.Request) -> web.Response:
    """Return the user; without credentials, the anonymous one, as Zendesk does."""
    me = {"id": 1_001, "name": "Agent", "role": "admin"} if _signed_in(request) else _ANONYMOUS
    return web.json_response(
        {"user": {**me, "url": f"{request.app[_STATE].account_url}/api/v2/users/me.json"}}
    )


def _signed_in(request: web.Request) -> bool:
    state = request.app[_STATE]
    given = request.headers.get("Authorization")
    if given is None:
        return False
    state.account_authorizations.append(given)
    basic = base64.b64encode(f"{state.email}/token:{state.api_token}".encode()).decode()
    valid = [f"Basic {basic}", *([f"Bearer {state.oauth_token}"] if state.oauth_token else [])]
    if state.knows_token(given.removeprefix("Bearer ")):
        return True
    return any(hmac.compare_digest(given.encode(), header.encode()) for header in valid)


def _without_inline_images(comment: dict[str, object]) -> dict[str, object]:
    attachments = comment["attachments"]
    assert isinstance(attachments, list)  # noqa: S101 `add_comment` made it
    return {**comment, "attachments": [one for one in attachments if not one["inline"]]}


def _sign_in_page() -> web.Response:
    return web.Response(text=_SIGN_IN, content_type="text/html")


def _unauthenticated() -> web.Response:
    return web.json_response({"error": "Couldn't authenticate you"}, status=401)
