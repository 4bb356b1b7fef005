"""Logins of commands: a person confirms a short code, as in https://www.rfc-editor.org/rfc/rfc8628.

The secret that the command waits with becomes its token. It is sent to the command once, and only its hash is kept.
The `proof` is made of that hash with the token of the person's role: a new API_TOKEN ends all logins that the old one
confirmed, and a row that somebody wrote into the table opens nothing.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog
from sqlalchemy import Row, and_, delete, exists, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.errors import Rejected
from service.jobs.retries import record_act
from service.postgres.engine import connect, transaction
from service.postgres.operation_tables import Login

Role = Literal["operator", "reader"]

PREFIX = b"holdfast_"  # of secrets: scanners of repositories find them, and other tokens cause no query
CODE_LIFETIME = timedelta(minutes=10)
POLL_INTERVAL = timedelta(seconds=2)
MOST_DAYS = 366
DAYS = 90  # by default
# Anybody may begin a login: beyond this number, the oldest unconfirmed logins are deleted whose command does not poll.
# A stranger who begins many does not end the login of a person.
MOST_WAITING = 5_000
POLLING = timedelta(minutes=1)  # since the last poll of a command that still waits
KEPT = timedelta(days=90)  # how long a login is listed after its end
USED_PRECISION = timedelta(minutes=1)
# Consonants make no words, and none of these is mistaken for another: RFC 8628, section 6.1.
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_CODE_LENGTH = 8

log = structlog.get_logger()


@dataclass(frozen=True)
class Begun:
    """A login that was begun: the secret of the command, and the code that it shows."""

    secret: str
    user_code: str


@dataclass(frozen=True)
class Waiting:
    """A command that waits for a person."""

    name: str
    begun_at: datetime


@dataclass(frozen=True)
class Confirmation:
    """The confirmation of a person: the name, the role with its token, and the days."""

    by: str
    role: Role
    token: bytes
    days: int


@dataclass(frozen=True)
class Held:
    """A login in force."""

    id: int
    name: str
    by: str
    role: Role
    ends_at: datetime


async def begin(engine: AsyncEngine, name: str) -> Begun:
    """Let a command wait for a person; delete logins that ended long ago."""
    secret = (PREFIX + secrets.token_urlsafe(32).encode()).decode()
    while True:
        code = "".join(secrets.choice(_LETTERS) for _ in range(_CODE_LENGTH))
        row = insert(Login).values(name=name, secret_hash=_hash_of(secret.encode()), user_code=code)
        async with connect(engine) as conn:
            login_id = await conn.scalar(row.on_conflict_do_nothing().returning(Login.id))
            if login_id is None:  # another command waits with this code
                continue
            await conn.execute(_forget(login_id))
        return Begun(secret, f"{code[:4]}-{code[4:]}")


async def poll(engine: AsyncEngine, tokens: Mapping[Role, bytes], secret: bytes) -> Held | None:
    """Return the login once a person confirmed it; None while it waits.

    Raises Rejected if it is refused (403), if there is none or its code has expired (404), or if it asks too often (429).
    """
    is_this = Login.secret_hash == _hash_of(secret)
    too_soon = (Login.polled_at > func.now() - POLL_INTERVAL).label("too_soon")
    async with connect(engine) as conn, transaction(conn):
        row = (await conn.execute(select(*_COLUMNS, too_soon).where(is_this).with_for_update())).one_or_none()
        await conn.execute(update(Login).where(is_this).values(polled_at=func.now()))
    if row is not None and row.too_soon:
        raise Rejected(429, "slow_down", "Ask again after a longer pause.")
    if row is not None and row.revoked_at is not None:
        raise Rejected(403, "login_refused", "The login was refused.")
    if row is not None and row.is_waiting:
        return None
    if row is None or (held := _held(row, tokens)) is None:
        raise Rejected(404, "login_expired", "The code has expired: run `holdfast login` again.")
    return held


async def find_waiting(engine: AsyncEngine, user_code: str) -> Waiting | None:
    """Return the command that waits with a code, as a person types it."""
    query = select(Login.name, Login.begun_at).where(_is_waiting(user_code))
    async with connect(engine) as conn:
        row = (await conn.execute(query)).one_or_none()
    return row and Waiting(row.name, row.begun_at)


async def confirm(engine: AsyncEngine, user_code: str, given: Confirmation, actor: str) -> str | None:
    """Give the waiting command the rights of the person, once; return its name, or None if none waits."""
    async with connect(engine) as conn, transaction(conn):
        waiting = select(Login.id, Login.name, Login.secret_hash).where(_is_waiting(user_code))
        row = (await conn.execute(waiting.with_for_update())).one_or_none()
        if row is None:
            return None
        values = {
            "user_code": None,
            "role": given.role,
            "proof": _proof(given.token, row.secret_hash),
            "confirmed_at": func.now(),
            "confirmed_by": given.by,
            "ends_at": func.now() + timedelta(days=min(given.days, MOST_DAYS)),
        }
        await conn.execute(update(Login).where(Login.id == row.id).values(values))
        await _record(conn, actor, "confirm_login", row)
    log.info("login_confirmed", login=row.id, role=given.role)
    return str(row.name)


async def refuse(engine: AsyncEngine, user_code: str, actor: str) -> str | None:
    """Refuse the waiting command; return its name, or None if none waits."""
    values = {"user_code": None, "revoked_at": func.now(), "revoked_by": actor}
    refused = update(Login).where(_is_waiting(user_code)).values(values)
    async with connect(engine) as conn, transaction(conn):
        row = (await conn.execute(refused.returning(Login.id, Login.name))).one_or_none()
        if row is None:
            return None
        await _record(conn, actor, "refuse_login", row)
    log.info("login_refused", login=row.id)
    return str(row.name)


async def recognize(engine: AsyncEngine, tokens: Mapping[Role, bytes], secret: bytes) -> Held | None:
    """Return the login of a token; None if it is unknown, revoked, over, or confirmed with an older API_TOKEN."""
    query = select(*_COLUMNS).where(Login.secret_hash == _hash_of(secret))
    async with connect(engine) as conn:
        row = (await conn.execute(query)).one_or_none()
        held = _held(row, tokens) if row is not None else None
        if held is not None and row is not None and row.is_use_new:
            await conn.execute(update(Login).where(Login.id == held.id).values(used_at=func.now()))
    return held


async def has_ended(engine: AsyncEngine, login_id: int) -> bool:
    """Return whether a login is revoked, or over."""
    query = select(exists().where(Login.id == login_id, text(IN_FORCE)))
    async with connect(engine) as conn:
        return not await conn.scalar(query)


async def revoke(engine: AsyncEngine, login_id: int, actor: str) -> None:
    """End a login at once, in all processes; raises Rejected (404, or 409 if it is over)."""
    is_this = Login.id == login_id
    ended = update(Login).where(is_this, text(IN_FORCE)).values(revoked_at=func.now(), revoked_by=actor)
    async with connect(engine) as conn, transaction(conn):
        row = (await conn.execute(ended.returning(Login.id, Login.name))).one_or_none()
        if row is None:
            if await conn.scalar(select(Login.id).where(is_this, Login.confirmed_at.is_not(None))) is None:
                raise Rejected(404, "login_not_found", f"There is no login {login_id}.")
            raise Rejected(409, "login_over", f"Login {login_id} is over already.")
        await _record(conn, actor, "revoke_login", row)
    log.info("login_revoked", login=login_id)


def as_typed(user_code: str) -> str:
    """Return the letters of a code, however a person typed them; "" if it is none."""
    letters = "".join(letter for letter in user_code.upper() if letter.isalpha())
    return letters if len(letters) == _CODE_LENGTH and set(letters) <= set(_LETTERS) else ""


def _hash_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _proof(token: bytes, secret_hash: bytes) -> bytes:
    return hmac.digest(token, b"holdfast login " + secret_hash, "sha256")


def _held(row: Row[*tuple[Any, ...]], tokens: Mapping[Role, bytes]) -> Held | None:
    """Return the login of a row, if it is in force."""
    token = tokens.get(row.role)
    if not row.is_in_force or token is None or row.proof is None:
        return None
    if not hmac.compare_digest(row.proof, _proof(token, row.secret_hash)):
        return None
    return Held(row.id, row.name, row.confirmed_by or "", row.role, row.ends_at)


def _forget(newest_id: int) -> Any:  # noqa: ANN401 a statement
    """Delete logins that ended long ago, and beyond MOST_WAITING the oldest unconfirmed ones that nobody polls."""
    unconfirmed = Login.confirmed_at.is_(None)
    is_polled = and_(Login.begun_at > func.now() - CODE_LIFETIME, Login.polled_at > func.now() - POLLING)
    is_beyond = and_(Login.id <= newest_id - MOST_WAITING, is_polled.is_not(True))
    is_old = or_(Login.begun_at < func.now() - timedelta(days=1), is_beyond)
    is_over = func.coalesce(Login.revoked_at, Login.ends_at) < func.now() - KEPT
    return delete(Login).where(or_(and_(unconfirmed, is_old), is_over))


async def _record(conn: AsyncConnection, actor: str, action: str, row: Row[*tuple[Any, ...]]) -> None:
    await record_act(conn, actor, action, subject=f"login {row.id}: {row.name}")


def _is_waiting(user_code: str) -> Any:  # noqa: ANN401 a condition
    return and_(Login.user_code == as_typed(user_code), Login.begun_at > func.now() - CODE_LIFETIME)


IN_FORCE = "confirmed_at IS NOT NULL AND revoked_at IS NULL AND ends_at > now()"
_COLUMNS: Sequence[Any] = (
    Login.id,
    Login.name,
    Login.secret_hash,
    Login.role,
    Login.proof,
    Login.confirmed_by,
    Login.ends_at,
    Login.revoked_at,
    text(f"({IN_FORCE}) IS TRUE AS is_in_force"),
    and_(Login.user_code.is_not(None), Login.begun_at > func.now() - CODE_LIFETIME).label("is_waiting"),
    func.coalesce(Login.used_at < func.now() - USED_PRECISION, True).label("is_use_new"),
)
