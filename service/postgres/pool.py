"""The pool of connections to Postgres: it grows as needed, shrinks when idle, and waits if Postgres refuses more."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import ConnectionPoolEntry, Pool
from sqlalchemy.util import await_only, greenlet_spawn

from service.errors import Transient
from service.telemetry.metrics import POOL_OPEN, POOL_REFUSALS

TOO_MANY = "database_too_many_connections"
# The pause after a refusal: short for a process without any connection.
SOON_SECONDS, LATER_SECONDS = 0.5, 5.0
RECENT_SECONDS = 60.0
# too_many_connections, of a server, role or database, and configuration_limit_exceeded.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_REFUSED = {"53300", "53400"}
# The application_name of all our processes begins with this.
OURS = "holdfast"
ADVICE = (
    "lower DATABASE_POOL_SIZE or WEB_CONCURRENCY, end other sessions, take a plan with more connections,"
    " or put PgBouncer before Postgres"
)
HOLDERS = "SELECT application_name, count(*) FROM pg_stat_activity GROUP BY 1"

_pools: WeakSet["ElasticPool"] = WeakSet()


class TooManyConnections(Exception):
    """Postgres refused a connection until the caller's timeout; the message says what to do."""


class ElasticPool(Pool):
    """Lends the most recently used connection, and opens another one only while all are lent.

    Waiting callers are served in order. If Postgres refuses another connection, they wait for one of this
    pool's, and raise the refusal only at their timeout. A pool belongs to one event loop. Once disposed, it lends
    nothing any more: nobody would close a connection that a late task opens.
    """

    _is_asyncio = True

    def __init__(self, creator: Any, pool_size: int, timeout: float, **more: Any) -> None:  # noqa: ANN401 SQLAlchemy's
        """Hold up to `pool_size` connections; a caller waits up to `timeout` seconds."""
        super().__init__(creator, **more)
        self.most = pool_size
        self.open = 0
        self.refusals = 0
        self.refused_at = float("-inf")  # the last time, by the monotonic clock
        self._is_refused = False  # until Postgres accepts a connection
        self._limit = "server"  # the limit that the last refusal named
        self._timeout = timeout
        self._tried_at = float("-inf")  # the last try to open a connection
        self.is_disposed = False
        self._idle: deque[tuple[float, ConnectionPoolEntry]] = deque()
        self._waiting: deque[asyncio.Future[ConnectionPoolEntry | None]] = deque()
        _pools.add(self)

    @property
    def is_starved(self) -> bool:
        """Say whether a caller waits for a connection that Postgres refuses."""
        return self._is_refused and not self.is_disposed and (self.open == 0 or bool(self._waiting))

    @property
    def was_refused(self) -> bool:
        """Say whether Postgres refused a connection within the last minute."""
        return time.monotonic() - self.refused_at < RECENT_SECONDS

    async def close_idle(self, seconds: float) -> None:
        """Close connections that were idle for this long."""
        while self._idle and self._idle[0][0] <= time.monotonic() - seconds:
            _, entry = self._idle.popleft()
            await greenlet_spawn(self._discard, entry)

    def error(self) -> Transient:
        """Return the error that names the cause and says what to do."""
        return Transient(
            TOO_MANY,
            f"Postgres refuses connections, too many are open: the limit of the {self._limit} is reached."
            f" This process holds {self.open} of at most {self.most}. What to do: {ADVICE}."
            f" `holdfast check` shows who holds them, and so does: {HOLDERS}",
        )

    def recreate(self) -> "ElasticPool":
        """Return an empty pool. Where this one is disposed, it is, too: SQLAlchemy puts it in its place."""
        pool = self.__class__(
            self._creator,
            pool_size=self.most,
            timeout=self._timeout,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )
        pool.is_disposed = self.is_disposed
        return pool

    def dispose(self) -> None:
        """Close all idle connections, also if the caller is cancelled meanwhile."""
        self.is_disposed = True
        interruption: BaseException | None = None
        while self._idle:
            try:
                self._discard(self._idle.pop()[1])
            except BaseException as exc:  # noqa: BLE001 raised when all are closed
                interruption = exc
        if interruption:
            raise interruption

    def status(self) -> str:
        return f"{self.open} of {self.most} open, {len(self._idle)} idle, {len(self._waiting)} callers wait"

    def _do_get(self) -> ConnectionPoolEntry:
        until = time.monotonic() + self._timeout
        while True:
            if self.is_disposed:
                raise InvalidRequestError("the pool is closed")
            if self._idle:
                entry: ConnectionPoolEntry | None = self._idle.pop()[1]
            elif self._may_open():
                entry = self._open()
            else:
                entry = self._wait(until)
            if entry and self._is_good(entry):
                return entry
            if entry:
                self._discard(entry)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if record.dbapi_connection is None or self.is_disposed:
            self._discard(record)
        elif not self._give(record):
            self._idle.append((time.monotonic(), record))

    @property
    def _may_open_at(self) -> float:
        if not self._is_refused:
            return float("-inf")
        return self._tried_at + (LATER_SECONDS if self.open else SOON_SECONDS)

    def _may_open(self) -> bool:
        return self.open < self.most and time.monotonic() >= self._may_open_at

    def _open(self) -> ConnectionPoolEntry | None:
        """Open a connection; None if Postgres refuses it. Raises any other error."""
        self._tried_at = time.monotonic()
        self._count(1)
        began = time.time()  # SQLAlchemy compares with this clock
        try:
            entry = self._create_connection()
        except BaseException as exc:
            self._count(-1)
            if not is_refusal(exc):
                self._is_refused = self._is_refused and not isinstance(exc, Exception)
                self._give(None)
                raise
            self._is_refused, self._limit = True, _limit_of(exc)
            self.refusals, self.refused_at = self.refusals + 1, time.monotonic()
            POOL_REFUSALS.inc()
            return None
        self._is_refused = False
        entry.info["began"] = began
        return entry

    def _wait(self, until: float) -> ConnectionPoolEntry | None:
        """Wait for a connection of this pool; None when it is time to try to open one."""
        now = time.monotonic()
        if now >= until:
            raise (
                TooManyConnections(self.error().message)
                if self._is_refused
                else PoolTimeoutError(self.status())
            )
        seconds = until - now
        if self._is_refused and self.open < self.most:
            seconds = min(seconds, max(0.01, self._may_open_at - now))
        future: asyncio.Future[ConnectionPoolEntry | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await_only(asyncio.wait([future], timeout=seconds))
        except BaseException:  # cancelled, perhaps just after it got a connection
            if future in self._waiting:
                self._waiting.remove(future)
            elif entry := future.result():
                self._do_return_conn(entry)
            else:
                self._give(None)
            raise
        if future.done():
            return future.result()
        self._waiting.remove(future)
        return None

    def _give(self, entry: ConnectionPoolEntry | None) -> bool:
        """Give the first waiting caller a connection, or the chance to open one; return False if none waits."""
        if not self._waiting:
            return False
        self._waiting.popleft().set_result(entry)
        return True

    def _is_good(self, entry: ConnectionPoolEntry) -> bool:
        """Say whether no later error has invalidated the connections of its age."""
        return entry.dbapi_connection is not None and self._invalidate_time <= entry.info["began"]

    def _discard(self, entry: ConnectionPoolEntry) -> None:
        try:
            entry.close()
        finally:
            self._count(-1)
            self._give(None)

    def _count(self, change: int) -> None:
        self.open += change
        POOL_OPEN.inc(change)


def is_refusal(exc: BaseException) -> bool:
    """Say whether Postgres refuses a connection because too many are open."""
    return isinstance(exc, TooManyConnections) or getattr(exc, "sqlstate", None) in _REFUSED


def refusal() -> Transient | None:
    """Return the reason of a timeout if Postgres refuses connections, or None."""
    return next((pool.error() for pool in _pools if pool.is_starved), None)


def _limit_of(exc: BaseException) -> str:
    """Return the scope of the reached limit. Postgres's text also names the role or the database."""
    return next((whose for whose in ("role", "database") if f"connections for {whose}" in str(exc)), "server")


@dataclass(frozen=True)
class Usage:
    """The connections of each application_name, and their limit: the one that is reached first."""

    limit: int
    held: Mapping[str, int]

    @property
    def others(self) -> int:
        """The number of connections of other programs."""
        return sum(count for name, count in self.held.items() if not name.startswith(OURS))

    @property
    def is_full(self) -> bool:
        return sum(self.held.values()) >= self.limit

    def __str__(self) -> str:
        held = ", ".join(f"{name} {count}" for name, count in sorted(self.held.items()))
        return f"{sum(self.held.values())} of {self.limit} are open: {held}"


async def usage(conn: AsyncConnection) -> Usage:
    """Count the connections of Postgres and find the limit with the least room."""
    limits = (await conn.execute(_LIMITS)).one()
    sessions = (await conn.execute(_SESSIONS)).all()
    scopes = (
        (limits.of_server, sessions),
        (limits.of_role, [each for each in sessions if each.is_same_role]),
        (limits.of_database, [each for each in sessions if each.is_same_database]),
    )
    room, found = None, Usage(0, {})
    for limit, counted in scopes:
        left = None if limit is None else limit - sum(each.sessions for each in counted)
        if left is not None and (room is None or left < room):
            held: dict[str, int] = {}
            for each in counted:
                held[each.name] = held.get(each.name, 0) + each.sessions
            room, found = left, Usage(limit, held)
    return found


# The limits of a role and of a database do not apply to superusers.
_LIMITS = text("""
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0) AS of_server,
        nullif(rolconnlimit, -1) AS of_role, nullif(datconnlimit, -1) AS of_database
    FROM pg_roles, pg_database WHERE rolname = session_user AND datname = current_database()
""")
# Only a superuser sees the names of other roles' sessions.
_SESSIONS = text("""
    SELECT coalesce(nullif(left(application_name, 40), ''), 'others') AS name,
        coalesce(usename = session_user, false) AS is_same_role,
        coalesce(datname = current_database(), false) AS is_same_database, count(*) AS sessions
    FROM pg_stat_activity WHERE usesysid IS NOT NULL AND datid IS NOT NULL GROUP BY 1, 2, 3
""")
