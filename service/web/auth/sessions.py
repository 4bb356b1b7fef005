"""Sessions of browsers: a signed cookie holds the role and the name of a person."""

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
MOST_COOKIES = 4  # checked per request; browsers send the one with the longest path first
SECONDS = int(LIFETIME.total_seconds())


def begin(request: web.Request, response: web.StreamResponse, identity: Identity, token: bytes) -> None:
    """Set the cookie; it is valid until it expires or the token changes."""
    response.set_cookie(
        COOKIE,
        # The random part tells apart two sessions of one name that began in the same second.
        _serializer(identity.role, token).dumps([identity.name, secrets.token_urlsafe(9)]),
        max_age=SECONDS,
        path=_path(request),
        httponly=True,
        samesite="Lax",
        secure=is_encrypted(request),
    )


def read(request: web.Request, tokens: Mapping[Role, bytes]) -> Identity | None:
    """Return the identity in the cookie, or None if it is missing, expired or not ours."""
    for cookie, (role, token) in product(_cookies(request), tokens.items()):
        try:
            content = _serializer(role, token).loads(cookie, max_age=SECONDS)
        except (BadSignature, UnicodeError):  # a cookie that is not text is not ours either
            continue
        name = content[0] if isinstance(content, list) and content else content
        return Identity(role, str(name), "dashboard", _id_of(role, cookie))
    return None


def end(request: web.Request, response: web.StreamResponse) -> None:
    response.del_cookie(
        COOKIE, path=_path(request), httponly=True, samesite="Lax", secure=is_encrypted(request)
    )


def _path(request: web.Request) -> str:
    return prefix_of(request) or "/"


def _cookies(request: web.Request) -> Sequence[str]:
    """Return all cookies of our name: another Holdfast on this host, without a prefix, may have set one."""
    pairs = (pair.strip().partition("=") for pair in request.headers.get("Cookie", "").split(";"))
    return [value for name, _, value in pairs if name == COOKIE][:MOST_COOKIES]


def _id_of(role: Role, cookie: str) -> str:
    """Return the hash of the signed part: the signature itself has several spellings."""
    signed, _, _ = cookie.rpartition(".")
    return hashlib.sha256(f"{role} {signed}".encode()).hexdigest()


def _serializer(role: Role, token: bytes) -> URLSafeTimedSerializer:
    """Make the serializer of a role; its key comes from the token, so that a new token ends all sessions."""
    signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeTimedSerializer(token, salt=f"holdfast session {role}", signer_kwargs=signer)
