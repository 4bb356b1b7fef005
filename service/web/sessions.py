"""Sessions of browsers: a signed cookie says in which role somebody signed in, and by what name."""

import hashlib
import secrets
from collections.abc import Mapping

from aiohttp import web
from itsdangerous import BadSignature, URLSafeTimedSerializer

from service.sessions import LIFETIME
from service.web.keys import Identity, Role
from service.web.middleware import is_encrypted

COOKIE = "holdfast_session"
SECONDS = int(LIFETIME.total_seconds())


def begin(request: web.Request, response: web.StreamResponse, identity: Identity, token: bytes) -> None:
    """Give the browser its cookie; it holds until the time is up or the token is another one."""
    response.set_cookie(
        COOKIE,
        # Without something of its own, two sessions that began in one second under one name would be one.
        _serializer(identity.role, token).dumps([identity.name, secrets.token_urlsafe(9)]),
        max_age=SECONDS,
        httponly=True,
        samesite="Lax",
        secure=is_encrypted(request),
    )


def read(request: web.Request, tokens: Mapping[Role, bytes]) -> Identity | None:
    """Return who signed in, or None if the cookie is missing, too old, or none that we made."""
    shown = request.cookies.get(COOKIE, "")
    for role, token in tokens.items():
        try:
            content = _serializer(role, token).loads(shown, max_age=SECONDS)
        except (BadSignature, UnicodeError):  # what is not text is not ours either
            continue
        name = content[0] if isinstance(content, list) and content else content
        return Identity(role, str(name), "dashboard", _id_of(role, shown))
    return None


def end(request: web.Request, response: web.StreamResponse) -> None:
    response.del_cookie(COOKIE, httponly=True, samesite="Lax", secure=is_encrypted(request))


def _id_of(role: Role, cookie: str) -> str:
    """Name a session by what is signed: the signature itself can be written in several ways."""
    signed, _, _ = cookie.rpartition(".")
    return hashlib.sha256(f"{role} {signed}".encode()).hexdigest()


def _serializer(role: Role, token: bytes) -> URLSafeTimedSerializer:
    """Make what signs for a role; its key comes from the token, so that a new token ends the sessions."""
    signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeTimedSerializer(token, salt=f"holdfast session {role}", signer_kwargs=signer)
