"""The migrations run up and down over rows, beside a running service, and again after an interruption."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import chain, cycle, pairwise
from typing import Any

import asyncpg
import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateSequence, CreateTable, ExecutableDDLElement

from service.postgres.operation_tables import TABLES
from tests.conftest import ROOT, migrate
from tests.support import forked
from tests.support.databases import (
    FIRST,
    HEAD,
    REVISIONS,
    UPGRADE,
    VERSIONS,
    command,
    empty_database,
    environment,
    sql,
    until,
    upgrade,
    url,
)

__all__ = ["url"]  # a fixture

pytestmark = pytest.mark.long

STATES = ("received", "queued", "processing", "completed", "failed")
OLD_STATES = (*STATES, "done")
OLD_COLUMNS = (
    "id, zendesk_ticket_id, from_email, from_name, subject, processing_error, received_at,"
    " sync_status, sync_error, sync_retry_count, idempotency_key"
)
NEW_COLUMNS = "attempt_number, retry_count, due_at <= now(), started_at, completed_at, attachment_urls"
STATUSES = "SELECT processing_status FROM incoming_emails WHERE id <= $1 ORDER BY id"
INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


@pytest.fixture(autouse=True)
def non_blocking() -> None:
    """Allow blocking calls: these tests run nothing else on the loop."""


SESSION = r"session \d+ \([ \w]+\) uses incoming_emails in a transaction of \d+ s"
MIGRATE = command("service", "migrate")


def run(words: list[str], url: str | None) -> forked.Done:
    return forked.run(words[2:], environment(url), ROOT)


def upgrading(url: str) -> AbstractContextManager[forked.Running]:
    """Run an upgrade beside the block; kill it at the end."""
    return forked.running(UPGRADE[2:], environment(url), ROOT)


@contextmanager
def reading(url: str, statement: str) -> Iterator[None]:
    """Hold a transaction open that has read something, as a backup or a report does."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(url))
    try:
        loop.run_until_complete(connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ"))
        loop.run_until_complete(connection.execute(statement))
        yield
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


def index_build(url: str, waiting_seconds: float = 0) -> list[tuple[Any, ...]]:
    """Find the backend that has waited this long while it builds an index."""
    return sql(
        url,
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'"
        " AND wait_event_type = 'Lock' AND datname = current_database()"
        " AND clock_timestamp() - query_start > $1 * interval '1 second'",
        waiting_seconds,
    )


def insert(url: str, state: str) -> None:
    """Insert a row as the version before the state machine did."""
    sql(
        url,
        "INSERT INTO incoming_emails (zendesk_ticket_id, from_email, from_name, subject, processing_status,"
        " processing_error, sync_status, sync_error, sync_retry_count, idempotency_key)"
        " VALUES ($1, 'a@b.example', 'Ann', 'Grüße', $1, 'an error', 'synced', 'a sync error', 3, 'key ' || gen_random_uuid())",
        state,
    )


def rows(url: str) -> list[tuple[Any, ...]]:
    return sql(url, f"SELECT {OLD_COLUMNS} FROM incoming_emails WHERE id <= {len(OLD_STATES)} ORDER BY id")


def states(url: str) -> list[str]:
    return [state for (state,) in sql(url, STATUSES, len(OLD_STATES))]


def schema(url: str) -> set[tuple[Any, ...]]:
    """Describe all columns, indexes and constraints of our tables; one constraint is validated later."""
    found = sql(
        url,
        """
        SELECT ARRAY['column', table_name::text, column_name::text, data_type::text, is_nullable::text, column_default::text]
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
        UNION ALL
        SELECT ARRAY['index', tablename::text, indexname::text, indexdef]
        FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        UNION ALL
        SELECT ARRAY['constraint', conrelid::regclass::text, conname::text,
            replace(pg_get_constraintdef(oid), ' NOT VALID', '')]
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
        AND conrelid::regclass::text <> 'alembic_version'
        """,
    )
    return {tuple(part) for (part,) in found}


@dataclass(frozen=True)
class Walk:
    """What was seen on the way up to the newest revision, step by step, down again, and up at once."""

    before: list[tuple[Any, ...]]  # the old rows
    rows: list[list[tuple[Any, ...]]]  # the same, after each step
    states: tuple[list[str], list[str]]  # of the old rows, after each way up
    written: list[tuple[Any, ...]]  # what the version before wrote at each revision
    up: list[set[tuple[Any, ...]]]  # the schema at each revision
    down: list[set[tuple[Any, ...]]]  # the same on the way down, newest first
    not_validated: list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def walk(database_url: str) -> Iterator[Walk]:
    """Walk once for all tests: each revision takes a while."""
    with empty_database(database_url) as url:
        up, down, after = [], [], []
        migrate(url, "upgrade", FIRST)
        for state in OLD_STATES:
            insert(url, state)
        before = rows(url)
        for revision, state in zip(REVISIONS, chain(["done"], cycle(STATES)), strict=False):
            migrate(url, "upgrade", revision)
            up.append(schema(url))
            after.append(rows(url))
            insert(url, state)
            sql(url, "UPDATE incoming_emails SET sync_status = 'pending' WHERE id > $1", len(OLD_STATES))
        began_again = states(url)
        sql(
            url,
            "UPDATE incoming_emails SET processing_status = 'completed' WHERE id = $1",
            len(OLD_STATES) + 1,
        )
        written = sql(url, f"SELECT {NEW_COLUMNS} FROM incoming_emails WHERE id > $1", len(OLD_STATES))
        for _ in REVISIONS[1:]:
            migrate(url, "downgrade", "-1")
            down.append(schema(url))
            after.append(rows(url))
        migrate(url, "upgrade", "head")
        after.append(rows(url))
        not_validated = sql(url, "SELECT conname FROM pg_constraint WHERE NOT convalidated")
        yield Walk(before, after, (began_again, states(url)), written, up, down, not_validated)


def test_rows_in_every_old_state_survive_up_down_and_up_again(walk: Walk) -> None:
    assert len(walk.before) == len(OLD_STATES)
    assert walk.rows == [walk.before] * (2 * len(REVISIONS))
    # Jobs in progress and unknown states start again.
    expected = ["received", "queued", "received", "completed", "failed", "received"]
    assert walk.states == (expected, expected)
    assert walk.not_validated == []


def test_the_previous_version_can_write_at_every_revision(walk: Walk) -> None:
    assert walk.written == [(0, 0, True, None, None, None)] * len(REVISIONS)


def test_each_downgrade_takes_away_exactly_what_its_upgrade_added(walk: Walk) -> None:
    up = walk.up
    for added, left in zip(up[:-1], reversed(walk.down), strict=True):
        assert added == left

    table = "incoming_emails"
    index = (
        "CREATE INDEX ix_incoming_emails_status_received ON public.incoming_emails"
        " USING btree (processing_status, received_at)"
    )
    assert up[1] - up[0] == {
        ("column", table, "started_at", "timestamp with time zone", "YES", None),
        ("column", table, "completed_at", "timestamp with time zone", "YES", None),
        ("column", table, "retry_count", "integer", "NO", "0"),
        ("column", table, "attachment_urls", "json", "YES", None),
        ("index", table, "ix_incoming_emails_status_received", index),
    }
    assert up[0] < up[1]


def test_alembic_check_finds_no_difference(database_url: str) -> None:
    done = run(command("alembic", "check"), database_url)

    assert done.stdout.strip() == "No new upgrade operations detected."
    assert done.returncode == 0


def test_models_and_migrations_make_the_same_columns_indexes_and_checks(url: str, database_url: str) -> None:
    """`alembic check` compares neither the predicates of partial indexes nor the expressions of CHECKs."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for sequence in TABLES._sequences.values():
        sql(url, str(CreateSequence(sequence).compile(dialect=dialect)))
    for table in TABLES.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements: list[ExecutableDDLElement] = [CreateTable(table), *map(CreateIndex, indexes)]
        for statement in statements:
            sql(url, str(statement.compile(dialect=dialect)))

    made, migrated = ({*map(normalised, schema(each))} for each in (url, database_url))
    assert (made - migrated, migrated - made) == (set(), set())


def normalised(part: tuple[Any, ...]) -> tuple[Any, ...]:
    """Write a default of 0 in one way, and the allowed values of a CHECK in one order."""
    *names, definition = part
    if definition is not None:
        definition = re.sub(r"'(\d+)'::bigint", r"\1", definition)
        definition = re.sub(r"ARRAY\[([^]]*)\]", lambda match: str(sorted(match[1].split(", "))), definition)
    return (*names, definition)


def test_files_sort_by_date_read_as_sentences_and_follow_one_another() -> None:
    previous = "None"
    for path in sorted(VERSIONS.glob("*.py")):
        source = path.read_text()

        assert re.fullmatch(r"20\d{6}_\d{4}(_[a-z]+){2,}\.py", path.name), path.name
        assert f'revision = "{path.name[:13]}"' in source
        assert f"down_revision = {previous}" in source
        previous = f'"{path.name[:13]}"'


async def test_a_job_is_in_one_of_five_states(database: asyncpg.Connection) -> None:
    insert = "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status) VALUES ('1', $1)"
    for state in STATES:
        await database.execute(insert, state)

    for other in ("done", "", "Queued", "pending"):
        with pytest.raises(asyncpg.CheckViolationError, match="ck_incoming_emails_processing_status"):
            await database.execute(insert, other)


async def test_the_key_that_a_webhook_in_quarantine_shares_is_filled_in(database: asyncpg.Connection) -> None:
    """In more than one step of a thousand; only errors about a key have one."""
    await database.execute(
        "INSERT INTO quarantined_webhooks (idempotency_key, raw_body, raw_headers, error_code, error)"
        " SELECT 'q ' || n, '', '[]', CASE WHEN n % 2 = 0 THEN 'key_reused' ELSE 'not_json' END,"
        " format('E-mail 12 has the same key %L, but another body.', 'key ' || n) FROM generate_series(1, 2400) AS n"
    )
    revision = import_module("service.migrations.versions.20261203_0210_add_indexes_of_corrections")

    await database.execute(revision.FILL)

    filled = await database.fetch("SELECT idempotency_key, reused_key, error_code FROM quarantined_webhooks")
    for row in filled:
        key = row["idempotency_key"].replace("q", "key")
        assert row["reused_key"] == (key if row["error_code"] == "key_reused" else None)


def test_indexes_on_existing_tables_are_built_concurrently() -> None:
    printed = run([*UPGRADE, "--sql"], None)

    indexes = re.findall(r"^(?:CREATE|DROP) (?:UNIQUE )?INDEX.*$", printed.stdout, flags=re.MULTILINE)
    assert printed.stderr == ""
    assert len(indexes) >= 8
    assert all(" INDEX CONCURRENTLY " in index for index in indexes), indexes


def test_an_index_build_waits_for_a_long_report_and_blocks_no_writer(url: str) -> None:
    migrate(url, "upgrade", FIRST)
    with upgrading(url) as upgrade:
        with reading(url, "SELECT count(*) FROM pg_class"):
            until(lambda: index_build(url, waiting_seconds=1))  # longer than the wait for a lock
            insert(url, "received")
        done = upgrade.end()

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert states(url) == ["received"]
    assert sql(url, "SELECT version_num FROM alembic_version") == [(HEAD,)]


@pytest.mark.parametrize(
    ("words", "pauses"),
    [
        (["-x", "patience=1", "upgrade", "head"], 1),
        (["-x", "patience=0", "upgrade", "head"], 0),
        (["upgrade", "+2"], 0),  # a relative target: a second attempt could go too far
    ],
)
def test_a_lock_is_retried_for_the_given_patience_and_then_ends_the_upgrade(
    url: str, words: list[str], pauses: int
) -> None:
    migrate(url, "upgrade", FIRST)
    before = schema(url)
    with reading(url, "SELECT * FROM incoming_emails"):
        refused = run(command("alembic", *words), url)
        left = schema(url)
    again = run(UPGRADE, url)

    paused = rf"(?:Waiting for a lock: {SESSION}\. Trying again in 0\.5 s\.\n){{{pauses}}}"
    assert re.fullmatch(paused + r"Postgres refused: [^\n]*lock timeout[^\n]*\n", refused.stderr)
    assert refused.returncode == 1
    assert left == before
    assert (again.returncode, again.stderr) == (0, "")


def test_writers_wait_less_than_a_second_while_an_upgrade_waits_for_a_report(url: str) -> None:
    """A writer's longer wait for a lock is an error of the writer, on a machine of any speed."""
    migrate(url, "upgrade", FIRST)
    sql(
        url,
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status)"
        " SELECT number, (ARRAY['completed', 'done', 'processing'])[1 + number % 3] FROM generate_series(1, 30000) number",
    )
    ids_and_states = "SELECT id, processing_status FROM incoming_emails"
    file = "SELECT pg_relation_filenode('incoming_emails')"
    before = sql(url, file)

    done, written = asyncio.run(upgrade_beside_writers(url))

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        rf"(Waiting for a lock: {SESSION}\. Trying again in [0-9.]+ s\.\n){{2,}}", done.stderr
    )
    assert len(written) > 3
    assert sql(url, f"{ids_and_states} WHERE id > 30000 ORDER BY id") == [(n, "completed") for n in written]
    assert {state for _, state in sql(url, f"{ids_and_states} WHERE id <= 30000")} == {
        "completed",
        "received",
    }
    assert sql(url, file) == before, "the table was written anew"
    assert sql(url, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == []


async def upgrade_beside_writers(url: str) -> tuple[subprocess.CompletedProcess[str], list[int]]:
    """Upgrade while the previous version writes, with a report that blocks the first two attempts."""
    report = await asyncpg.connect(url)
    await report.execute("BEGIN; SELECT count(*) FROM incoming_emails")
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(write(url, over)) for _ in range(3)]
        process = await asyncio.create_subprocess_exec(
            *MIGRATE, cwd=ROOT, env=environment(url), stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr
        said = await process.stderr.readline() + await process.stderr.readline()
        await report.close()
        said += await process.stderr.read()
        status = await process.wait()
        over.set()
    ids = sorted(number for writer in writers for number in writer.result())
    return subprocess.CompletedProcess(MIGRATE, status, "", said.decode()), ids


async def write(url: str, over: asyncio.Event) -> list[int]:
    """Insert, update and read as the previous version does; return the inserted ids."""
    connection = await asyncpg.connect(url, server_settings={"lock_timeout": "1s"})
    written: list[int] = []
    while not over.is_set():
        number = await connection.fetchval(
            "INSERT INTO incoming_emails (zendesk_ticket_id, from_email) VALUES ('1', 'a@b.example') RETURNING id"
        )
        for state in ("processing", "completed"):
            await connection.execute(
                "UPDATE incoming_emails SET processing_status = $1 WHERE id = $2", state, number
            )
        old = 1 + number * 7919 % 30_000
        await connection.execute("UPDATE incoming_emails SET sync_status = 'synced' WHERE id = $1", old)
        await connection.fetch(f"SELECT {OLD_COLUMNS} FROM incoming_emails WHERE id IN ($1, $2)", number, old)
        written.append(number)
        await asyncio.sleep(0.01)
    await connection.close()
    return written


def test_an_autovacuum_yields_to_the_upgrade(slow_vacuum: str) -> None:
    """By itself it only yields to a session that waits for longer than we do."""
    done = run(UPGRADE, slow_vacuum)

    assert re.search(r"session \d+ \(autovacuum worker\) uses incoming_emails", done.stderr)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def slow_vacuum(url: str) -> Iterator[str]:
    """Start an autovacuum that takes minutes."""
    migrate(url, "upgrade", FIRST)
    slow = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
    sql(url, f"ALTER TABLE incoming_emails SET (autovacuum_vacuum_insert_threshold = 1, {slow})")
    sql(url, "INSERT INTO incoming_emails (zendesk_ticket_id) SELECT '1' FROM generate_series(1, 100000)")
    sql(url, "ALTER SYSTEM SET autovacuum_naptime = '1s'")
    sql(url, "SELECT pg_reload_conf()")
    runs = "SELECT pid FROM pg_stat_progress_vacuum WHERE relid = 'incoming_emails'::regclass"
    try:
        until(lambda: sql(url, runs))
        yield url
    finally:
        sql(url, "ALTER SYSTEM RESET autovacuum_naptime")
        sql(url, "SELECT pg_reload_conf()")


@pytest.mark.parametrize("revision", [FIRST, REVISIONS[2]])
def test_a_second_upgrade_repairs_an_interrupted_index_build(url: str, revision: str) -> None:
    migrate(url, "upgrade", revision)
    insert(url, "received")
    with upgrading(url) as upgrade:
        with reading(url, "SELECT count(*) FROM pg_class"):
            until(lambda: index_build(url))
            ((pid,),) = index_build(url)
            sql(url, "SELECT pg_terminate_backend($1)", pid)
            done = upgrade.end()
        left = sql(url, INVALID)
    again = run(UPGRADE, url)

    assert done.returncode == 1
    assert re.fullmatch(r"[^\n]+\n", done.stderr), done.stderr
    assert left == [(1,)]
    assert again.returncode == 0, again.stderr
    assert sql(url, INVALID) == [(0,)]
    assert states(url) == ["received"]
    assert run(command("alembic", "check"), url).returncode == 0


def test_a_second_upgrade_repairs_every_interrupted_index(url: str, database_url: str) -> None:
    printed = run([*UPGRADE, "--sql"], None).stdout
    builds = dict.fromkeys(re.findall(r"^CREATE INDEX CONCURRENTLY.*$", printed, flags=re.MULTILINE))
    # Each revision's part begins with "-- Running upgrade 20250901_0900 -> 20250915_0900".
    parts = {part[17:30]: part for part in printed.split("-- Running upgrade ") if part[13:17] == " -> "}
    interrupted = []
    for previous, revision in pairwise(REVISIONS):
        migrate(url, "upgrade", revision)
        interrupted.append([build for build in builds if build in parts[revision]])
        for build in interrupted[-1]:
            interrupt(url, build)
        sql(url, "UPDATE alembic_version SET version_num = $1", previous if interrupted[-1] else revision)
    left = sql(url, INVALID)
    migrate(url, "upgrade", "head")

    assert [*chain(*interrupted)] == [*builds]
    assert left == [(len(interrupted[-1]),)]
    assert sql(url, INVALID) == [(0,)]
    assert schema(url) == schema(database_url)


def interrupt(url: str, build: str) -> None:
    """Leave an index behind as an interrupted build does."""

    async def run() -> None:
        connection = await asyncpg.connect(url, server_settings={"lock_timeout": "10ms"})
        await connection.execute(f"DROP INDEX {build.split()[3]}")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await connection.execute(build)
        await connection.close()

    with reading(url, "SELECT count(*) FROM pg_class"):
        asyncio.run(run())


# Terminates every second update of the revision; a sequence's count survives the transaction.
CUT_OFF = (
    "CREATE SEQUENCE notes",
    """
    CREATE FUNCTION cut_off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('notes') % 2 = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
        RETURN new;
    END $$
    """,
    "CREATE TRIGGER cut_off BEFORE UPDATE ON alembic_version FOR EACH ROW EXECUTE FUNCTION cut_off()",
)


def test_a_second_upgrade_completes_one_cut_off_at_any_revision(url: str, database_url: str) -> None:
    migrate(url, "upgrade", FIRST)
    insert(url, "done")
    for statement in CUT_OFF:
        sql(url, statement)
    ends, reached = [], []
    for _ in REVISIONS:
        ends.append(upgrade(url))
        reached += [revision for (revision,) in sql(url, "SELECT version_num FROM alembic_version")]

    assert reached == REVISIONS
    assert [end.returncode for end in ends] == [1] * (len(REVISIONS) - 1) + [0]
    assert all(re.fullmatch(r"Postgres [^\n]+\n", end.stderr) for end in ends[:-1]), ends
    assert schema(url) == schema(database_url)
    assert states(url) == ["received"]


@pytest.mark.parametrize("statement", ["SELECT count(*) FROM pg_class", "SELECT * FROM incoming_emails"])
def test_a_second_upgrade_completes_a_killed_one(url: str, database_url: str, statement: str) -> None:
    """Its server process runs on for a while, and the next upgrade waits for it."""
    migrate(url, "upgrade", FIRST)
    insert(url, "done")
    with reading(url, statement), upgrading(url) as killed:
        until(lambda: sql(url, "SELECT pid FROM pg_locks WHERE NOT granted"))
        killed.kill()
    again = run(UPGRADE, url)

    assert again.returncode == 0, again.stderr
    assert schema(url) == schema(database_url)
    assert states(url) == ["received"]


def test_two_simultaneous_upgrades_both_succeed(url: str) -> None:
    with upgrading(url) as one, upgrading(url) as other:
        ends = [process.end() for process in (one, other)]

    assert [end.returncode for end in ends] == [0, 0], ends
    assert sql(url, "SELECT version_num FROM alembic_version") == [(HEAD,)]


@pytest.mark.parametrize(
    ("words", "url", "status", "line"),
    [
        (UPGRADE, None, 2, "DATABASE_URL is not set (Postgres; for example DATABASE_URL=postgres://"),
        (UPGRADE, "", 2, "DATABASE_URL is not set"),
        (
            UPGRADE,
            "mysql://user:hunter2@host/name",
            2,
            "DATABASE_URL: must begin with postgres:// or postgresql://",
        ),
        (
            UPGRADE,
            "postgres://user:hunter2@127.0.0.1:1/name",
            1,
            "Postgres cannot be reached: ConnectionRefusedError",
        ),
        (UPGRADE, "postgres://user:hunter2@host.invalid/name", 1, "Postgres cannot be reached: gaierror"),
        (
            UPGRADE,
            "postgres://user:hunter2@/name?host=/nowhere",
            1,
            "Postgres cannot be reached: FileNotFoundError",
        ),
        (
            UPGRADE,
            "postgres://user:hunter2@host/name?sslmode=maybe",
            2,
            "DATABASE_URL: sslmode must be disable, ",
        ),
        (
            command("alembic", "-x", "patience=long", "upgrade", "head"),
            "postgres://user:hunter2@host/name",
            2,
            "-x patience=SECONDS: must be a whole number",
        ),
        (MIGRATE, None, 2, "DATABASE_URL is not set"),
        (MIGRATE, "postgres://user:hunter2@127.0.0.1:1/name", 1, "Postgres cannot be reached: Connection"),
    ],
)
def test_each_obstacle_at_start_is_reported_in_one_line(
    words: list[str], url: str | None, status: int, line: str
) -> None:
    done = run(words, url)

    assert done.stderr.startswith(line), done.stderr
    assert done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (status, "")
    assert "hunter2" not in done.stderr


def test_a_missing_database_is_reported_in_one_line(url: str) -> None:
    done = run(UPGRADE, url.replace("/migrations_", "/no_such_"))

    assert re.fullmatch(r'Postgres [^\n]*database "no_such_\w+" does not exist[^\n]*\n', done.stderr)
    assert done.returncode == 1


def test_migrate_is_upgrade_head(url: str) -> None:
    done = run(command("service", "migrate"), url)

    assert (done.returncode, done.stderr) == (0, "")
    assert sql(url, "SELECT version_num FROM alembic_version") == [(HEAD,)]
