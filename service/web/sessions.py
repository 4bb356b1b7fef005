"""Sessions of browsers: a signed cookie says in which role somebody signed in, and by what name."""

import hashlib
from collections.abc import Mapping

from aiohttp import web
from itsdangerous import BadSignature, URLSafeTimedSerializer

from service.web.keys import Identity, Role

COOKIE = "holdfast_session"
SECONDS = 12 * 60 * 60


def begin(request: web.Request, response: web.StreamResponse, identity: Identity, token: bytes) -> None:
    """Give the browser its cookie; it holds until the time is up or the token is another one."""
    response.set_cookie(
        COOKIE,
        _serializer(identity.role, token).dumps(identity.name),
        max_age=SECONDS,
        httponly=True,
        samesite="Lax",
        secure=_is_secure(request),
    )


def read(request: web.Request, tokens: Mapping[Role, bytes]) -> Identity | None:
    """Return who signed in, or None if the cookie is missing, too old, or none that we made."""
    shown = request.cookies.get(COOKIE, "")
    for role, token in tokens.items():
        try:
            name = _serializer(role, token).loads(shown, max_age=SECONDS)
        except (BadSignature, UnicodeError):  # what is not text is not ours either
            continue
        return Identity(role, str(name), "dashboard")
    return None


def end(request: web.Request, response: web.StreamResponse) -> None:
    response.del_cookie(COOKIE, httponly=True, samesite="Lax", secure=_is_secure(request))


def _serializer(role: Role, token: bytes) -> URLSafeTimedSerializer:
    """Make what signs for a role; its key comes from the token, so that a new token ends the sessions."""
    signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeTimedSerializer(token, salt=f"holdfast session {role}", signer_kwargs=signer)


def _is_secure(request: web.Request) -> bool:
    # Of several proxies the first one met the browser.
    proto = request.headers.get("X-Forwarded-Proto", "").partition(",")[0]
    return request.secure or proto.strip().lower() == "https"
