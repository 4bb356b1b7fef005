"""Sessions of browsers: a signed cookie says in which role somebody signed in, and by what name."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from itertools import product

from aiohttp import web
from itsdangerous import BadSignature, URLSafeTimedSerializer

from service.operate.sessions import LIFETIME
from service.web.handling.keys import Identity, Role
from service.web.handling.middleware import is_encrypted
from service.web.handling.prefix import prefix_of

COOKIE = "holdfast_session"
MOST_COOKIES = 4  # that are looked at; the one of the longest path comes first
SECONDS = int(LIFETIME.total_seconds())


def begin(request: web.Request, response: web.StreamResponse, identity: Identity, token: bytes) -> None:
    """Give the browser its cookie; it holds until the time is up or the token is another one."""
    response.set_cookie(
        COOKIE,
        # Without something of its own, two sessions that began in one second under one name would be one.
        _serializer(identity.role, token).dumps([identity.name, secrets.token_urlsafe(9)]),
        max_age=SECONDS,
        path=_path(request),
        httponly=True,
        samesite="Lax",
        secure=is_encrypted(request),
    )


def read(request: web.Request, tokens: Mapping[Role, bytes]) -> Identity | None:
    """Return who signed in, or None if the cookie is missing, too old, or none that we made."""
    for shown, (role, token) in product(_shown(request), tokens.items()):
        try:
            content = _serializer(role, token).loads(shown, max_age=SECONDS)
        except (BadSignature, UnicodeError):  # what is not text is not ours either
            continue
        name = content[0] if isinstance(content, list) and content else content
        return Identity(role, str(name), "dashboard", _id_of(role, shown))
    return None


def end(request: web.Request, response: web.StreamResponse) -> None:
    response.del_cookie(
        COOKIE, path=_path(request), httponly=True, samesite="Lax", secure=is_encrypted(request)
    )


def _path(request: web.Request) -> str:
    return prefix_of(request) or "/"


def _shown(request: web.Request) -> Sequence[str]:
    """Return all cookies of our name: another Holdfast on this host, without a prefix, has one of its own."""
    pairs = (pair.strip().partition("=") for pair in request.headers.get("Cookie", "").split(";"))
    return [value for name, _, value in pairs if name == COOKIE][:MOST_COOKIES]


def _id_of(role: Role, cookie: str) -> str:
    """Name a session by what is signed: the signature itself can be written in several ways."""
    signed, _, _ = cookie.rpartition(".")
    return hashlib.sha256(f"{role} {signed}".encode()).hexdigest()


def _serializer(role: Role, token: bytes) -> URLSafeTimedSerializer:
    """Make what signs for a role; its key comes from the token, so that a new token ends the sessions."""
    signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeTimedSerializer(token, salt=f"holdfast session {role}", signer_kwargs=signer)
