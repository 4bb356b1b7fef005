"""The stand-in's account, `{subdomain}.zendesk.com`: its API, attachments, originals and access tokens.

https://developer.zendesk.com/api-reference/ticketing/oauth/grant_type_tokens/
"""

from urllib.parse import quote

from aiohttp import web

from service.local.zendesk.access import STATE, answer_of, sign_in_page, signed_in
from service.local.zendesk.api import add_endpoints, limited
from service.local.zendesk.rules import add_rule_endpoints
from service.local.zendesk.state import Fault, StandInState, describe

__all__ = ["account", "describe"]

_MOST_BYTES = 128 * 1024**2  # of a request: an e-mail with its files


def account(state: StandInState) -> web.Application:
    """Return the account's application."""
    app = web.Application(middlewares=[limited], client_max_size=_MOST_BYTES)
    app[STATE] = state
    app.router.add_post("/oauth/tokens", _give_token)
    app.router.add_get("/attachments/token/{token}/", _attachment, allow_head=False)
    app.router.add_get("/audits/{audit:\\d+}/email.eml", _original, allow_head=False)
    app.router.add_get("/auth/v2/login/signin", _sign_in, allow_head=False)
    add_endpoints(app)
    add_rule_endpoints(app)
    return app


async def _give_token(request: web.Request) -> web.Response:
    state = request.app[STATE]
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
    state.rules.scopes[token] = str(asked.get("scope", ""))
    answer = {"access_token": token, "token_type": "bearer", "scope": asked.get("scope"), "expires_in": life}
    return web.json_response(answer)


async def _attachment(request: web.Request) -> web.Response:
    state = request.app[STATE]
    token = request.match_info["token"]
    file = state.files.get(token)
    has_access = signed_in(request)
    if file is None or state.has_died(file, token):
        return web.Response(status=404, text="Not found")
    file.requests += 1
    if not (file.public or has_access):
        return sign_in_page()
    if file.is_refused:  # Zendesk documents that it refuses, and not with which status
        return web.Response(status=403, text="Forbidden")
    fault = file.faults.popleft() if file.faults else Fault()
    scripted = None if fault.at_cdn else await answer_of(fault)
    if fault.sign_in:
        return sign_in_page()
    if scripted:
        return scripted
    return web.Response(status=302, headers={"Location": state.add_address(file, fault)})


async def _original(request: web.Request) -> web.Response:
    """Return an e-mail as it came, if `gives_originals`; else redirect to the sign-in page.

    The address is in no documentation. Agents download originals there; whether a program may is unknown.
    """
    state = request.app[STATE]
    state.calls["email.eml"] += 1
    if not (signed_in(request) and state.gives_originals):
        target = f"/auth/v2/login/signin?return_to={quote(str(request.rel_url), safe='')}"
        return web.Response(status=302, headers={"Location": f"{state.account_url}{target}"})
    original = state.originals.get(int(request.match_info["audit"]))
    if original is None or original.ticket != request.query.get("ticket_id"):
        return web.Response(status=404, text="Not found")
    return web.Response(
        body=original.read(),
        content_type="message/rfc822",
        headers={"Content-Disposition": 'attachment; filename="email.eml"'},
    )


async def _sign_in(_request: web.Request) -> web.Response:
    return sign_in_page()
