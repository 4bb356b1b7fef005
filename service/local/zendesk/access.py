"""What all handlers of the stand-in share: its state, scripted faults, and the check of credentials."""

import asyncio
import base64
import hmac

from aiohttp import web

from service.local.zendesk.state import Fault, StandInState

STATE = web.AppKey("state", StandInState)

_SIGN_IN = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Sign in to Zendesk</title></head>
<body><form action="/access/login" method="post"><input name="user[email]"><input name="user[password]" type="password">
<button>Sign in</button></form></body></html>
"""


async def answer_of(fault: Fault) -> web.Response | None:
    """Wait as long as a fault says; return its answer, or None for the usual one."""
    await asyncio.sleep(fault.delay_seconds)
    if fault.status is None:
        return None
    return web.Response(status=fault.status, headers=fault.headers, body=fault.body)


def signed_in(request: web.Request) -> bool:
    """Return whether the request has valid credentials; record those that it has."""
    state = request.app[STATE]
    given = request.headers.get("Authorization")
    if given is None:
        return False
    state.account_authorizations.append(given)
    basic = base64.b64encode(f"{state.email}/token:{state.api_token}".encode()).decode()
    valid = [f"Basic {basic}", *([f"Bearer {state.oauth_token}"] if state.oauth_token else [])]
    if state.knows_token(bearer(request)):
        return True
    return any(hmac.compare_digest(given.encode(), header.encode()) for header in valid)


def bearer(request: web.Request) -> str:
    """Return the access token of a request, or the text in its place."""
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def sign_in_page() -> web.Response:
    return web.Response(text=_SIGN_IN, content_type="text/html")


def unauthenticated() -> web.Response:
    return web.json_response({"error": "Couldn't authenticate you"}, status=401)
