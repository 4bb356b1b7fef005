"""Connections to Postgres, time budgets for them, and the meaning of its errors."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from itertools import count
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.errors import ADAPT, ROW_REFUSED, Permanent, Transient, certificate_problem
from service.postgres.pool import ElasticPool, TooManyConnections, is_refusal, refusal
from service.telemetry.metrics import POOL_IN_USE, POOL_SIZE, POOL_WAITING

T = TypeVar("T")

# By then the lease has ended, and another worker has the job.
INSIST_SECONDS = 60.0

# The connections of a pool are closed one after the other.
GOODBYE_SECONDS = 0.2
# Postgres may have planned a statement for an empty table, with a scan of the whole table. It keeps that plan until there
# are new statistics, which may come many thousand rows later.
PLAN_SECONDS = 30.0
# The longest wait for a server that accepts a connection and does not answer.
CONNECT_SECONDS = 20.0
# The longest wait for an answer to SELECT 1, after a statement that took too long.
ANSWER_SECONDS = 2.0
# Names in pg_stat_activity.
WEB, WORKER, COMMAND, RELEASE = "holdfast web", "holdfast worker", "holdfast command", "holdfast release"

# Errors after which a session, and all of the same age in the pool, are useless: the server became read-only
# (after a failover it may continue as a standby), or ends all sessions.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_READ_ONLY = asyncpg.ReadOnlySQLTransactionError.sqlstate
_NOT_AUTHORIZED = asyncpg.InvalidAuthorizationSpecificationError.sqlstate
_SESSION_ENDED = {
    _READ_ONLY,
    asyncpg.AdminShutdownError.sqlstate,
    asyncpg.CrashShutdownError.sqlstate,
    asyncpg.CannotConnectNowError.sqlstate,
}
# The SQLSTATE class of statements that do not fit the tables: a table or column is missing, or has another
# type.
_WRONG_TABLES = "42"
# The SQLSTATE classes of values that are refused: data, integrity, limits such as that of an index, and errors that a
# trigger raises.
_LIMITS, _RAISED = "54", "P0"
_OF_VALUES = {"22", "23", _LIMITS, _RAISED}
_UNSTORABLE = "Postgres cannot store a value of this request"
_PARTS = ("table", "column", "constraint")  # of the tables that an error names
# The code of a text that is longer than its column.
TOO_LONG = "value_too_long"

_LATE = (
    "Postgres answers, but a statement took too long: it may wait for a lock of another session,"
    " which pg_blocking_pids tells."
)

_TRANSACTION = "READ COMMITTED"


class WrongTables(Transient):
    """The database answers, and lacks tables or columns of this version: nobody migrated it, or took it over."""

    def __init__(self, code: str = "database_unavailable") -> None:
        super().__init__(code, "The tables are not those of this version: `holdfast check` says what to do.")


# Fails where a write would fail, and writes nothing.
_WRITE_CHECK = text("""
    DO $$ BEGIN
        IF current_setting('transaction_read_only') = 'on' THEN
            RAISE read_only_sql_transaction;
        END IF;
    END $$
""")

# Statements that outlived their caller's budget; the set keeps them referenced until they end.
_abandoned: set[asyncio.Task[Any]] = set()


def create_engine(
    url: str, *, pool_size: int, seconds: float, name: str = COMMAND, statement_seconds: float | None = None
) -> AsyncEngine:
    """Create an engine in autocommit mode: each statement is a transaction; nothing connects yet.

    asyncpg parses the URL, so that Heroku's `postgres://` and libpq's parameters (`sslmode`,
    `host=/socket/directory`, …) have their usual meaning. `seconds` bounds connecting and waiting for the
    pool, `statement_seconds` any statement (default: twice as long). `name` is the application_name in
    pg_stat_activity.
    """
    POOL_SIZE.set(pool_size)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: _open_session(url, seconds, statement_seconds or 2 * seconds, name),
        poolclass=ElasticPool,
        pool_size=pool_size,
        pool_timeout=seconds,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "handle_error", _mark_disconnected)
    return engine


async def _open_session(url: str, seconds: float, statement_seconds: float, name: str) -> Any:  # noqa: ANN401 asyncpg has no types
    connection = await asyncpg.connect(
        url.replace("postgresql+asyncpg://", "postgresql://", 1),
        timeout=min(seconds, CONNECT_SECONDS),
        command_timeout=statement_seconds,
        statement_cache_size=0,  # SQLAlchemy has a cache of its own
        connection_class=_PoolerAwareConnection,
        server_settings={"application_name": name},
    )
    try:
        await connection.detect_pooler()
    except BaseException:
        connection.terminate()
        raise
    return connection


async def close_engine(engine: AsyncEngine) -> None:
    """Close the pool, after a short wait for statements that outlived their budget.

    A connection that is lent by then, or opened later, is closed when it comes back. A cancellation skips the wait alone.
    """
    try:
        await _wait_for_abandoned()
    finally:
        await engine.dispose()
    await asyncio.sleep(0)  # an aborted connection closes its socket in the loop's next turn


async def _wait_for_abandoned() -> None:
    """Wait for statements that outlived their budget; cancel those that are late."""
    loop = asyncio.get_running_loop()
    if left := {task for task in _abandoned if task.get_loop() is loop}:
        _, late = await asyncio.wait(left, timeout=GOODBYE_SECONDS)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=GOODBYE_SECONDS)


def pool_of(engine: AsyncEngine) -> ElasticPool:
    pool = engine.pool
    assert isinstance(pool, ElasticPool)  # noqa: S101 create_engine sets this class
    return pool


class _PoolerAwareConnection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """A connection that works through PgBouncer, and that closes at once.

    PgBouncer may send each transaction, and so each statement of ours, to another server without our prepared
    statements. asyncpg sends an unnamed statement again with each run.
    """

    pooled = True
    _names: Iterator[int]
    _prepared: dict[str, tuple[Any, float]]  # with the time of its preparation

    async def detect_pooler(self) -> None:
        """Find out whether Postgres itself answered, or a pooler with process ids of its own."""
        self._names, self._prepared = count(), {}
        self.pooled = self.get_server_pid() != await self.fetchval("SELECT pg_backend_pid()")

    async def prepare(self, query: str, *, name: str | None = None, **more: Any) -> Any:  # noqa: ANN401 as above
        """Prepare under a name, for Postgres to keep, if the session stays the same."""
        if not self.pooled:
            name = f"holdfast_{next(self._names)}"
        return await super().prepare(query, name=name, **more)

    async def prepare_once(self, query: str) -> Any:  # noqa: ANN401 as above
        """Prepare a statement at its first use in this session, and again when it is PLAN_SECONDS old."""
        prepared, since = self._prepared.get(query, (None, 0.0))
        if prepared is None or since < time.monotonic() - PLAN_SECONDS:
            prepared = await self.prepare(query)
            self._prepared[query] = prepared, time.monotonic()
        return prepared

    def forget(self, query: str) -> None:
        """Prepare a statement again at its next use."""
        self._prepared.pop(query, None)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 asyncpg's signature
        """Close without waiting long for an answer: a dead server would delay the end of the process."""
        with suppress(TimeoutError, OSError, asyncpg.InterfaceError):
            await super().close(timeout=timeout or GOODBYE_SECONDS)


def _mark_disconnected(context: ExceptionContext) -> None:
    """Mark such errors as disconnections: SQLAlchemy then replaces this session and all of the same age."""
    if getattr(context.original_exception, "sqlstate", None) in _SESSION_ENDED:
        context.is_disconnect = True


async def is_pooled(connection: AsyncConnection) -> bool:
    """Say whether a pooler stands before Postgres: it may change the session with each transaction."""
    return (await driver_of(connection)).pooled


async def driver_of(connection: AsyncConnection) -> _PoolerAwareConnection:
    """Return asyncpg's own connection."""
    lent = connection.sync_connection
    if lent is None or lent.closed or lent.invalidated:
        driver = (await connection.get_raw_connection()).driver_connection
    else:  # without a greenlet, which takes 10 µs
        driver = lent.connection.driver_connection
    assert isinstance(driver, _PoolerAwareConnection)  # noqa: S101 create_engine opens no others
    return driver


@asynccontextmanager
async def connect(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Lend a connection.

    Raises Transient for errors that may pass, and Permanent for a value that Postgres refuses. An OSError of the block
    that leaves the connection open is not one of Postgres, and is raised as it is.
    """
    late: TimeoutError | None = None
    foreign: OSError | None = None
    try:
        with ExitStack() as waiting:
            waiting.enter_context(POOL_WAITING.track_inprogress())
            async with engine.connect() as connection:
                waiting.close()
                with POOL_IN_USE.track_inprogress():
                    try:
                        yield connection
                    except asyncpg.InternalClientError:
                        # SQLAlchemy does not know this error, and would keep the session.
                        await connection.invalidate()
                        raise
                    except TimeoutError as exc:
                        late = exc
                        raise
                    except OSError as exc:
                        foreign = None if _is_lost(connection) else exc
                        raise
    except DBAPIError as exc:
        raise refused_row(exc) or _outage(exc) from exc
    except asyncpg.InternalClientError as exc:  # the server ended the session in this very moment
        raise Transient("database_disconnected", f"Postgres: {type(exc).__name__}") from exc
    except (
        *(OSError, TimeoutError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError),
        TooManyConnections,
    ) as exc:
        if exc is foreign:
            raise
        if exc is late and await _answers(engine):
            raise Transient("database_slow", _LATE) from exc
        raise _unavailable(engine, exc) from exc


def _is_lost(connection: AsyncConnection) -> bool:
    lent = connection.sync_connection
    if lent is None or lent.closed or lent.invalidated:
        return True
    return bool(lent.connection.driver_connection.is_closed())  # type: ignore[union-attr] # as `driver_of`


async def _answers(engine: AsyncEngine) -> bool:
    """Say whether Postgres answers at all, after a statement that took too long."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS), engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except (OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, TooManyConnections):
        return False
    return True


def _unavailable(engine: AsyncEngine, exc: Exception) -> Transient:
    if is_refusal(exc):
        return pool_of(engine).error()
    return Transient("database_unavailable", f"Postgres cannot be reached: {reason_of(exc)}")


@asynccontextmanager
async def transaction(conn: AsyncConnection) -> AsyncIterator[None]:
    """Make one transaction of the block's statements; within another such block, they become part of that one."""
    if is_in_transaction(conn):
        yield
        return
    await conn.rollback()  # of nothing: until here, each statement was a transaction of its own
    await conn.execution_options(isolation_level=_TRANSACTION)
    try:
        async with conn.begin():
            yield
    finally:
        if not (conn.closed or conn.invalidated):
            await conn.execution_options(isolation_level="AUTOCOMMIT")


def is_in_transaction(conn: AsyncConnection) -> bool:
    """Say whether the statements of this connection are part of a `transaction` now."""
    options = conn.sync_connection.get_execution_options() if conn.sync_connection else {}
    return options.get("isolation_level") == _TRANSACTION


def reason_of(error: BaseException) -> str:
    """Say in a phrase, without secrets, why Postgres cannot be reached; for TLS problems also how to fix them."""
    if problem := certificate_problem(error):
        return f"{problem}: sslmode=require in DATABASE_URL accepts it, sslrootcert=FILE names its issuer"
    if "rejected SSL upgrade" in str(error):
        return "it has no TLS, and DATABASE_URL asks for it: sslmode=disable turns it off"
    if getattr(error, "sqlstate", None) == _NOT_AUTHORIZED and "no encryption" in str(error):
        return "it requires TLS: add sslmode=require to DATABASE_URL"
    return type(error).__name__


def is_about_values(error: BaseException | None) -> bool:
    """Say whether Postgres, its driver or a trigger refuses a value; not the statement.

    https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    return str(getattr(error, "sqlstate", None) or "")[:2] in _OF_VALUES


def refused_row(exc: DBAPIError) -> Permanent | None:
    """Return the error for a value that Postgres refuses, or None for other errors; the message contains no value."""
    cause = getattr(exc.orig, "__cause__", None)
    state = str(getattr(exc.orig, "sqlstate", None) or "")
    # SQLAlchemy does not map all of them to its own DataError.
    if not (isinstance(exc, DataError) or is_about_values(cause) or is_about_values(exc.orig)):
        return None
    if state == asyncpg.StringDataRightTruncationError.sqlstate:
        return Permanent(TOO_LONG, f"Postgres: {cause}. {ADAPT}")
    why = _refusal(state, cause)
    return Permanent(ROW_REFUSED, why) if why else Permanent("unstorable", _UNSTORABLE)


def _refusal(state: str, cause: object) -> str | None:
    """Say which rule of the table refuses a row, and what to do; None if it is none of a table."""
    table, column, constraint = (getattr(cause, f"{what}_name", None) for what in _PARTS)
    if state.startswith(_RAISED):
        raised = "Postgres refuses a row because a trigger of another system raises an error"
        return f"{raised}: its log tells which. Change or drop that trigger."
    if state == asyncpg.NotNullViolationError.sqlstate:
        return f"Postgres refuses a row without a value in the column {table}.{column} (NOT NULL). {ADAPT}"
    if constraint and state.startswith(_LIMITS):
        long = f"Postgres refuses a row with a value that is too long for the index {constraint} of {table}"
        instead = (
            "If another system made that index, drop it, or make one of the value's first 400 characters."
        )
        return f"{long}. {instead}"
    return f"Postgres refuses a row that violates {constraint} of {table}. {ADAPT}" if constraint else None


def _outage(exc: DBAPIError) -> Transient:
    """Return the error for an outage of Postgres."""
    code = "database_disconnected" if exc.connection_invalidated else "database_unavailable"
    if getattr(exc.orig, "sqlstate", None) == asyncpg.DeadlockDetectedError.sqlstate:
        code = "database_deadlock"
    if getattr(exc.orig, "sqlstate", None) == _READ_ONLY:
        return Transient(
            "database_read_only",
            "Postgres accepts no writes: this server is a standby, or its default_transaction_read_only is on."
            " During a failover this ends by itself; otherwise point DATABASE_URL to the primary.",
        )
    state = str(getattr(exc.orig, "sqlstate", None) or "")
    if state.startswith(_WRONG_TABLES) and state != asyncpg.InsufficientPrivilegeError.sqlstate:
        return WrongTables(code)
    return Transient(code, f"Postgres: {type(exc.orig).__name__}")


async def run(engine: AsyncEngine, seconds: float, statement: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run a statement within a budget; run it a second time after a stale connection or a deadlock.

    A connection of the pool may date from before a restart or a failover. In a deadlock, Postgres cancels one
    of the statements. Raises as `connect` and `within` do; the statement must be safe to repeat.
    """

    async def once() -> T:
        async with connect(engine) as conn:
            return await statement(conn)

    async def twice() -> T:
        try:
            return await once()
        except Transient as exc:
            if exc.code == "database_deadlock":
                await asyncio.sleep(0.2)  # otherwise it may deadlock with the same statement again
            elif exc.code not in ("database_disconnected", "database_read_only"):
                raise
        return await once()

    return await within(seconds, twice())


async def check_writable(conn: AsyncConnection) -> None:
    """Raise the error that a write would raise on a read-only session."""
    await conn.execute(_WRITE_CHECK)


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Wait for `work` no longer than its budget, then leave it behind and raise Transient.

    It is left, not awaited: a statement that hangs on a dead connection also hangs when cancelled.
    """
    task = asyncio.create_task(work)
    _abandoned.add(task)
    task.add_done_callback(_forget)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        raise refusal() or Transient("database_slow", f"Postgres did not answer within {seconds:g} s")
    return task.result()


def unconfirmed() -> Transient:
    """Return the error of a caller that waits no longer for Postgres."""
    return refusal() or Transient("database_slow", "Postgres did not confirm it in time.")


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call during an outage of Postgres, so that a worker's finished result is not lost.

    Raises Transient after INSIST_SECONDS.
    """
    deadline = time.monotonic() + INSIST_SECONDS
    while True:
        try:
            return await call()
        except Transient:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(random.uniform(0.2, 1))  # noqa: S311 not a secret


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()
