"""Apply the plan of a takeover, in repeatable steps: each continues where an interrupted one stopped."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy import bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.errors import HoldfastError, Permanent, Transient
from service.postgres.email_tables import STATUSES, SYNC_STATUSES
from service.postgres.engine import connect
from service.takeover.existing_table import FIRST, REQUIRED, TRIGGER, ExistingTable
from service.takeover.plan import TakeoverPlan

T = TypeVar("T")
# The migration that creates `attachments`; later ones build most of the indexes.
ATTACHMENTS_REVISION = "20250922_0900"
# The advisory lock of a takeover; any fixed number.
LOCK = 4_710_024
BATCH = 2_000  # rows per transaction
# Short, because writers queue behind an ALTER TABLE that waits for its lock.
LOCK_SECONDS = 0.5
MAX_LOCK_WAIT_SECONDS = 60.0
# Another object needs a column: https://www.postgresql.org/docs/current/errcodes-appendix.html
_IN_THE_WAY = frozenset({"0A000", "2BP01"})  # feature_not_supported, dependent_objects_still_exist
LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED = "55P03", "40P01"
_INDEX = "uq_incoming_emails_idempotency_key"
_NEW_INDEX = f"{_INDEX}_new"

# Called with the number of rows done.
ReportProgress = Callable[[int], None]


@asynccontextmanager
async def exclusive(engine: AsyncEngine) -> AsyncIterator[None]:
    """Hold the advisory lock of takeovers; raises Transient if another takeover is running."""
    async with connect(engine) as conn:
        if not await conn.scalar(text(f"SELECT pg_try_advisory_lock({LOCK})")):
            raise Transient(
                "takeover_running", "Another takeover of this database is running: wait for its end."
            )
        yield


async def apply(engine: AsyncEngine, plan: TakeoverPlan, tell: ReportProgress) -> None:
    """Change the table and its rows, and stamp the revision at which migrations continue.

    Raises Permanent if Postgres refuses a change, Transient if a lock cannot be acquired.
    """
    assert plan.table  # noqa: S101 the caller checked
    table = plan.table
    if plan.unknown:
        raise Permanent(
            "state_unknown",
            f"The states {', '.join(map(repr, plan.unknown))} are unknown: add --map OLD=NEW.",
        )
    await _with_retries("change the table", lambda: _change_table(engine, plan, table))
    await _change_rows(engine, plan, tell)
    if not table.has_unique_key:
        await _make_keys_unique(engine)
    for name in plan.optional:
        await _require(engine, name)
    if plan.is_foreign:
        await _with_retries("stamp the revision", lambda: _stamp(engine))


async def add_columns_of_lists(engine: AsyncEngine) -> None:
    """Add the columns that reading lists needs; later migrations add them only if they are missing."""

    async def add() -> None:
        async with _transaction(engine) as conn:
            await conn.exec_driver_sql(
                "ALTER TABLE incoming_emails ADD COLUMN IF NOT EXISTS reading_hash bytea"
            )
            await conn.exec_driver_sql(
                "ALTER TABLE attachments ADD COLUMN IF NOT EXISTS zendesk_id text,"
                " ADD COLUMN IF NOT EXISTS malware text"
            )

    await _with_retries("add columns", add)


async def _change_table(engine: AsyncEngine, plan: TakeoverPlan, table: ExistingTable) -> None:
    """Change columns and constraints, and install the trigger, in one transaction."""
    async with _transaction(engine) as conn:
        await conn.exec_driver_sql("SET LOCAL timezone = 'UTC'")
        if any("holdfast_as_json" in part for part in table.changes):
            await conn.exec_driver_sql(_AS_JSON)
        for statement in table.before:
            await conn.exec_driver_sql(statement)
        if table.changes:
            await conn.exec_driver_sql(f"ALTER TABLE incoming_emails {', '.join(table.changes)}")
        if not table.has_trigger or plan.states or plan.given:
            await _install_trigger(conn, {**plan.given, **plan.states})


async def _install_trigger(conn: AsyncConnection, states: Mapping[str, str]) -> None:
    known = ", ".join(map(_literal, STATUSES))
    cases = "".join(
        f" WHEN {_literal(old)} THEN {_literal(new)}" for old, new in states.items() if old not in STATUSES
    )
    word = "lower(trim(NEW.processing_status))"
    others = f"CASE WHEN {word} IN ('completed', 'failed') THEN {word} ELSE 'received' END"
    meant = f"CASE NEW.processing_status{cases} ELSE {others} END" if cases else others
    body = f"""
        BEGIN
            NEW.idempotency_key := coalesce(nullif(NEW.idempotency_key, ''), 'holdfast:email:' || NEW.id);
            NEW.zendesk_ticket_id := coalesce(NEW.zendesk_ticket_id, '');
            NEW.received_at := coalesce(NEW.received_at, now());
            NEW.retry_count := coalesce(NEW.retry_count, 0);
            NEW.sync_retry_count := coalesce(NEW.sync_retry_count, 0);
            IF NEW.processing_status IS NULL OR NEW.processing_status NOT IN ({known}) THEN
                NEW.processing_status := {meant};
            END IF;
            IF NEW.sync_status IS NULL OR NEW.sync_status NOT IN ({", ".join(map(_literal, SYNC_STATUSES))}) THEN
                NEW.sync_status := 'not_applicable';
            END IF;
            RETURN NEW;
        END
    """
    create = f"CREATE OR REPLACE FUNCTION {TRIGGER}() RETURNS trigger LANGUAGE plpgsql AS {_literal(body)}"
    await conn.exec_driver_sql(create)
    await conn.exec_driver_sql(
        f"CREATE OR REPLACE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE ON incoming_emails"
        f" FOR EACH ROW EXECUTE FUNCTION {TRIGGER}()"
    )


async def _change_rows(engine: AsyncEngine, plan: TakeoverPlan, tell: ReportProgress) -> None:
    """Fill missing values and map states, in batches with a commit each."""
    if not (plan.states or plan.missing):
        return
    statement = text(_batch_statement(plan)).bindparams(bindparam("states", json.dumps(plan.states)))
    after, done = -(2**63), 0
    while True:
        given = {"after": after, "most": BATCH}
        async with connect(engine) as conn:
            until, count = (await conn.execute(_NEXT, given)).one()
        if until is None:
            return
        given = {"after": after, "until": until}

        async def change_batch(given: Mapping[str, int] = given) -> None:
            async with _transaction(engine) as conn:
                await conn.execute(statement, given)

        await _with_retries("fill rows", change_batch)
        after, done = until, done + count
        tell(done)


def _batch_statement(plan: TakeoverPlan) -> str:
    assert plan.table  # noqa: S101 the caller checked
    created = plan.table.columns.get("created_at")
    zone = " AT TIME ZONE 'UTC'" if created and created.type == "timestamp" else ""
    known = f"created_at{zone}, " if created and created.type in {"timestamp", "timestamptz"} else ""
    nulls = " OR ".join(f"{name} IS NULL" for name in REQUIRED)
    return f"""
        WITH due AS (
            SELECT id FROM incoming_emails
            WHERE id > CAST(:after AS bigint) AND id <= CAST(:until AS bigint) AND (
                {nulls} OR idempotency_key = ''
                OR jsonb_exists(CAST(:states AS jsonb), coalesce(processing_status, ''))
            )
            ORDER BY id FOR UPDATE
        )
        UPDATE incoming_emails AS email SET
            processing_status = coalesce(
                CAST(:states AS jsonb) ->> coalesce(processing_status, ''), processing_status
            ),
            idempotency_key = coalesce(nullif(idempotency_key, ''), CASE
                WHEN EXISTS (SELECT FROM incoming_emails WHERE idempotency_key = 'holdfast:email:' || email.id)
                THEN gen_random_uuid()::text ELSE 'holdfast:email:' || email.id END),
            zendesk_ticket_id = coalesce(zendesk_ticket_id, ''),
            received_at = coalesce(received_at, {known}now()),
            retry_count = coalesce(retry_count, 0),
            sync_retry_count = coalesce(sync_retry_count, 0)
        FROM due WHERE email.id = due.id
    """  # noqa: S608 words of ours


async def _make_keys_unique(engine: AsyncEngine) -> None:
    """Make repeated keys unique and build the index concurrently; start again if a writer repeats a key meanwhile."""
    for _ in range(5):
        async with connect(engine) as conn:
            await conn.execute(_MAKE_KEYS_DIFFERENT)
            await conn.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {_NEW_INDEX}")
        try:
            async with connect(engine) as conn:
                await conn.exec_driver_sql(
                    f"CREATE UNIQUE INDEX CONCURRENTLY {_NEW_INDEX} ON incoming_emails (idempotency_key)"
                )
            break
        except Permanent:  # a writer repeated a key
            continue

    async def add_constraint() -> None:
        async with _transaction(engine) as conn:
            await conn.exec_driver_sql(
                f"ALTER TABLE incoming_emails ADD CONSTRAINT {_INDEX} UNIQUE USING INDEX {_NEW_INDEX}"
            )

    await _with_retries("make the keys unique", add_constraint)


async def _require(engine: AsyncEngine, name: str) -> None:
    """Set NOT NULL; a validated CHECK constraint avoids a scan of all rows under a lock."""
    check = f"holdfast_takeover_{name}"

    async def begin() -> None:
        async with _transaction(engine) as conn:
            await conn.exec_driver_sql(
                f"ALTER TABLE incoming_emails DROP CONSTRAINT IF EXISTS {check},"
                f" ADD CONSTRAINT {check} CHECK ({name} IS NOT NULL) NOT VALID"
            )

    async def end() -> None:
        async with _transaction(engine) as conn:
            await conn.exec_driver_sql(f"ALTER TABLE incoming_emails ALTER {name} SET NOT NULL")
            await conn.exec_driver_sql(f"ALTER TABLE incoming_emails DROP CONSTRAINT {check}")

    async def validate() -> None:
        async with connect(engine) as conn:
            await conn.exec_driver_sql(f"ALTER TABLE incoming_emails VALIDATE CONSTRAINT {check}")

    for step in (begin, validate, end):
        await _with_retries(f"require {name}", step)


async def _stamp(engine: AsyncEngine) -> None:
    async with _transaction(engine) as conn:
        await conn.exec_driver_sql(
            "CREATE TABLE IF NOT EXISTS alembic_version ("
            "version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
        await conn.exec_driver_sql("DELETE FROM alembic_version")
        await conn.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": FIRST})


@asynccontextmanager
async def _transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with connect(engine) as conn:
        await conn.execution_options(isolation_level="READ COMMITTED")
        async with conn.begin():
            await conn.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
            yield conn


async def _with_retries(step: str, work: Callable[[], Awaitable[T]]) -> T:
    """Repeat a step while another transaction holds the lock; raises Permanent with the refusal of Postgres."""
    deadline = time.monotonic() + MAX_LOCK_WAIT_SECONDS
    while True:
        try:
            return await work()
        except HoldfastError as exc:
            cause = exc.__cause__
            if not isinstance(cause, DBAPIError) or cause.connection_invalidated:
                raise
            if getattr(cause.orig, "sqlstate", None) not in {LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED}:
                raise Permanent(
                    "takeover_refused", f"Postgres refuses to {step}: {_reason(cause.orig)}"
                ) from exc
            if time.monotonic() > deadline:
                held = f"Could not {step}: others held the lock for {MAX_LOCK_WAIT_SECONDS:g} s. Run the command again later."
                raise Transient("lock_not_available", held) from exc
        await asyncio.sleep(0.2)


def _reason(error: BaseException | None) -> str:
    """Return the line of Postgres, and which other object is in the way; other details may have values of rows."""
    refusal = getattr(error, "__cause__", None) or error
    reason, detail = str(refusal).partition("\n")[0], getattr(refusal, "detail", None)
    if not detail or getattr(refusal, "sqlstate", None) not in _IN_THE_WAY:
        return reason
    return f"{reason}: {'; '.join(detail.splitlines())}. Drop it before, and create it again afterwards"


def _literal(value: str) -> str:
    """Quote a text as an SQL literal, valid with any standard_conforming_strings."""
    quoted = value.replace("'", "''")
    return f"'{quoted}'" if "\\" not in value else " E'" + quoted.replace("\\", "\\\\") + "'"


_AS_JSON = """
    CREATE FUNCTION pg_temp.holdfast_as_json(value text) RETURNS json LANGUAGE plpgsql AS '
        BEGIN RETURN nullif(trim(value), '''')::json; EXCEPTION WHEN data_exception THEN RETURN to_json(value); END
    '
"""
_NEXT = text("""
    SELECT max(id), count(*) FROM (
        SELECT id FROM incoming_emails WHERE id > CAST(:after AS bigint) ORDER BY id LIMIT :most
    ) AS batch
""")
_MAKE_KEYS_DIFFERENT = text("""
    UPDATE incoming_emails AS email SET idempotency_key = idempotency_key || ' (e-mail ' || id || ')'
    FROM (
        SELECT idempotency_key AS key, min(id) AS first FROM incoming_emails
        GROUP BY idempotency_key HAVING count(*) > 1
    ) AS repeated
    WHERE email.idempotency_key = repeated.key AND email.id > repeated.first
""")
