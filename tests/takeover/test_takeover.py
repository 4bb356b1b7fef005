"""`holdfast takeover` of databases of another system: every row and column stays, and it may be killed at any point."""

import asyncio
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
import structlog
from click.testing import CliRunner

from service.cli.main import main
from tests.conftest import ROOT, migrate
from tests.support.databases import HEAD, REVISIONS, environment, sql, until, upgrade, url

pytestmark = pytest.mark.long

__all__ = ["url"]  # a fixture

SAGA, MACHINE = "20260204_1549_add_saga", "20260204_1705_add_job_state_machine"
MAPS = ("--map", "processed=completed", "--map", "archived=failed")
KEPT = (
    "id, zendesk_ticket_id, from_email, from_name, subject, body_text, body_html, raw_json, created_at, saga_state,"
    " attachment_urls::text, processing_error"
)
STATES = ("pending", "processing", "processed", "completed", "failed", "archived", "received")
TOKEN = "https://acme.zendesk.example/attachments/token"
# The table as SQLAlchemy in a FastAPI service creates it.
TABLE = """
    CREATE TABLE alembic_version (version_num varchar(64) NOT NULL PRIMARY KEY);
    CREATE TABLE incoming_emails (
        id serial PRIMARY KEY,
        zendesk_ticket_id varchar(64) NOT NULL,
        from_email varchar(255) NOT NULL,
        from_name varchar(255),
        subject varchar(500),
        body_text text NOT NULL,
        body_html text,
        raw_json jsonb NOT NULL,
        attachment_urls jsonb,
        processing_status varchar(50) DEFAULT 'pending' CHECK (processing_status <> 'queued'),
        processing_error text,
        sync_status varchar(20) DEFAULT 'new',
        sync_error text,
        sync_retry_count integer DEFAULT 0,
        idempotency_key varchar(255) UNIQUE,
        received_at timestamptz DEFAULT now(),
        created_at timestamptz NOT NULL DEFAULT now(),
        started_at timestamptz,
        completed_at timestamptz,
        retry_count integer DEFAULT 0 CHECK (retry_count <= 3),
        saga_state varchar(30) NOT NULL
    );
"""
# Rows in all states, NULL in all nullable columns, and lists in all shapes.
ROWS = f"""
    INSERT INTO incoming_emails (zendesk_ticket_id, from_email, subject, body_text, raw_json, attachment_urls,
        processing_status, idempotency_key, received_at, saga_state)
    SELECT number::text, 'ann@b.example', 'Subject ' || number, 'text', '{{"a": 1}}', CASE number % 6
            WHEN 0 THEN NULL WHEN 1 THEN '[]'::jsonb WHEN 2 THEN 'null'::jsonb
            WHEN 3 THEN jsonb_build_array('{TOKEN}/a' || number || '/?name=a.pdf', '{TOKEN}/b' || number || '/?name=b.pdf')
            WHEN 4 THEN jsonb_build_array(jsonb_build_object('url', '{TOKEN}/c' || number || '/?name=c.pdf'))
            ELSE to_jsonb('{TOKEN}/d' || number || '/?name=d.pdf, {TOKEN}/e' || number || '/?name=e.pdf'::text) END,
        ($1::text[])[1 + number % 8], CASE WHEN number % 10 > 0 THEN 'key ' || number END,
        CASE WHEN number % 10 > 1 THEN now() - number * interval '1 minute' END, 'begun'
    FROM generate_series(1, $2::int) AS number
"""


@pytest.fixture(autouse=True)
def non_blocking() -> None:
    """Allow blocking calls: these tests run nothing else in the loop."""


def fill(url: str, rows: int = 96, revision: str | None = MACHINE) -> None:
    for statement in TABLE.split(";")[:-1]:
        sql(url, statement)
    if revision:
        sql(url, "INSERT INTO alembic_version VALUES ($1)", revision)
    else:
        sql(url, "DROP TABLE alembic_version")
    sql(url, ROWS, [*STATES, None], rows)


def take_over(url: str, *words: str) -> tuple[int, str]:
    """Run the command in this process, without a terminal; return its exit code and its output."""
    log = structlog.get_config()
    try:
        warnings.simplefilter("ignore", DeprecationWarning)  # alembic's own; pytest resets it after each test
        done = CliRunner().invoke(
            main, ["takeover", *words], env={"DATABASE_URL": url}, catch_exceptions=False
        )
    finally:
        structlog.configure(**log)
    return done.exit_code, done.output


def count(url: str, table: str = "incoming_emails") -> dict[Any, int]:
    column = "processing_status" if table == "incoming_emails" else "status"
    return dict(sql(url, f"SELECT {column}, count(*) FROM {table} GROUP BY 1"))


@pytest.mark.parametrize("revision", [SAGA, "4f2a9c", None])
def test_takeover_keeps_rows_and_columns_and_finished_stays_finished(url: str, revision: str | None) -> None:
    fill(url, revision=revision)
    before = sql(url, f"SELECT {KEPT} FROM incoming_emails ORDER BY id")
    keys = sql(
        url, "SELECT id, idempotency_key FROM incoming_emails WHERE idempotency_key IS NOT NULL ORDER BY id"
    )

    status, said = take_over(url, "--yes", *MAPS)
    again, then = take_over(url, "--yes", *MAPS)

    assert (status, again) == (0, 0), said
    assert then == "This database needs no takeover: its tables are those of this Holdfast.\n"
    assert sql(url, f"SELECT {KEPT} FROM incoming_emails ORDER BY id") == before
    assert {*keys} < {*sql(url, "SELECT id, idempotency_key FROM incoming_emails ORDER BY id")}
    # 12 of each: pending, processing, received and none; processed and completed; archived and failed.
    assert count(url) == {"received": 48, "completed": 24, "failed": 24}
    assert sql(url, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert sql(url, "SELECT count(DISTINCT idempotency_key), count(received_at) FROM incoming_emails") == [
        (96, 96)
    ]


def test_files_of_unfinished_emails_are_fetched_and_those_of_finished_ones_are_not_captured(
    url: str,
) -> None:
    fill(url)

    _, said = take_over(url, "--yes", *MAPS)

    files = sql(
        url,
        "SELECT processing_status, status, attachments.error_code, email.error_code, count(*) FROM attachments"
        " JOIN incoming_emails AS email ON id = email_id GROUP BY 1, 2, 3, 4 ORDER BY 1",
    )
    # Of each six e-mails, one has two files in a list, one has one in an object, and one has two joined in a text.
    assert {row[:4] for row in files} == {
        ("completed", "failed", "not_captured", "not_captured"),
        ("failed", "failed", "not_captured", "not_captured"),
        ("received", "pending", None, None),
    }
    assert sum(row[4] for row in files) == 96 * 5 // 6
    assert "retry --all --error-code not_captured" in said
    assert sql(url, "SELECT source_url FROM attachments WHERE email_id = 5 ORDER BY position") == [
        (f"{TOKEN}/d5/?name=d.pdf",),
        (f"{TOKEN}/e5/?name=e.pdf",),
    ]


def test_plan_describes_all_steps_and_changes_nothing(url: str) -> None:
    fill(url)
    state = "SELECT json_agg(incoming_emails)::text FROM incoming_emails"
    before = sql(url, state)

    status, said = take_over(url, "--plan")
    unknown = take_over(url, "--yes")
    unasked = take_over(url, *MAPS)
    wrong = [take_over(url, "--map", each)[0] for each in ("processed", "processed=done", "failed=completed")]

    assert status == 0
    for part in (
        f"Alembic revision {MACHINE}) and has 96 rows",
        "Remove the length limits of zendesk_ticket_id (64 characters), from_email (255 characters)",
        "Allow NULL in from_email, body_text, raw_json, saga_state.",
        "Fill idempotency_key of 9 e-mails",
        "Map the state 'pending' of 12 e-mails to 'received'.",
        "Map the unknown state 'processed' of 12 e-mails: add --map processed=completed",
        f"Run {len(REVISIONS) - 1} migrations.",
        "All rows and columns are kept.",
    ):
        assert part in said
    assert unknown[0] == 2
    assert "Unknown states: 'archived' (12), 'processed' (12)" in unknown[1]
    assert unasked[0] == 2
    assert "No terminal: add --yes" in unasked[1]
    assert wrong == [2, 2, 2]
    assert sql(url, state) == before


@contextmanager
def taking_over(url: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "takeover", "--yes", *MAPS],
        cwd=ROOT,
        env=environment(url),
        stdout=subprocess.DEVNULL,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_killed_takeover_continues_while_the_previous_system_writes(url: str) -> None:
    fill(url, 3_000)
    points = (
        "SELECT FROM incoming_emails WHERE processing_status = 'completed' AND id > 1000 AND id % 8 = 2",
        "SELECT FROM alembic_version WHERE version_num NOT LIKE '20260204%'",
        "SELECT FROM pg_attribute WHERE attname = 'sync_status_of_now' AND NOT attisdropped",
    )
    kept = f"SELECT {KEPT} FROM incoming_emails WHERE id <= 3000 ORDER BY id"
    before = sql(url, kept)

    written = asyncio.run(kill_beside_a_writer(url, points))
    status, _ = take_over(url, "--yes", *MAPS)

    assert status == 0
    assert sql(url, kept) == before
    assert len(written) > 2
    assert sql(url, "SELECT id FROM incoming_emails WHERE id > 3000 ORDER BY id") == [
        (number,) for number in written
    ]
    assert set(count(url)) == {"received", "completed", "failed"}
    assert sql(url, "SELECT count(*) FROM incoming_emails WHERE idempotency_key IS NULL") == [(0,)]
    assert sum(count(url, "attachments").values()) == 3_000 * 5 // 6 + len(written)


async def kill_beside_a_writer(url: str, points: tuple[str, ...]) -> list[int]:
    """Kill a takeover at each of these points, while another process writes; return the rows that it wrote."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(write(url, over))
        for point in points:
            with taking_over(url) as process:
                await asyncio.to_thread(wait, url, point, process)
                process.kill()
        over.set()
    return writer.result()


def wait(url: str, point: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for a row, or for the end of the process."""
    until(lambda: sql(url, f"{point} LIMIT 1") or process.poll() is not None)


async def write(url: str, over: asyncio.Event) -> list[int]:
    """Write rows with the states of the previous system, as its web process would, until stopped."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    written = []
    while not over.is_set():
        written.append(
            await connection.fetchval(
                "INSERT INTO incoming_emails (zendesk_ticket_id, from_email, subject, body_text, raw_json,"
                " processing_status, sync_status, idempotency_key, saga_state, attachment_urls)"
                " VALUES ('1', 'a@b.example', 'Hi', 'text', '{}', 'pending', 'new', NULL, 'begun', $1) RETURNING id",
                json.dumps([f"{TOKEN}/new{time.time_ns()}/?name=n.pdf"]),
            )
        )
        await asyncio.sleep(0.05)
    await connection.close()
    return written


STRANGE = """
    CREATE TYPE state AS ENUM ('PENDING', 'COMPLETED', 'FAILED');
    CREATE TABLE incoming_emails (
        id bigserial PRIMARY KEY, zendesk_ticket_id bigint, from_email text, from_name text, subject text,
        attachment_urls {kind}, raw_body jsonb, processing_status state DEFAULT 'PENDING', processing_error text,
        sync_status text, sync_error text, idempotency_key varchar(100), created_at timestamp DEFAULT '2025-01-31 12:00'
    );
    CREATE UNIQUE INDEX one_of_a_ticket ON incoming_emails (zendesk_ticket_id);
    CREATE TABLE alembic_version (version_num varchar(32));
    INSERT INTO alembic_version VALUES ('4f2a9c')
"""


@pytest.mark.parametrize(
    ("kind", "lists"),
    [
        ("text", [f'["{TOKEN}/a/?name=a.pdf"]', f"{TOKEN}/b/", "{not JSON", "", None]),
        ("text[]", [[f"{TOKEN}/a/?name=a.pdf"], [f"{TOKEN}/b/"], [], [], None]),
        (
            "json",
            [f'[{{"content_url": "{TOKEN}/a/", "name": "a.pdf"}}]', f'"{TOKEN}/b/"', "{}", "null", None],
        ),
    ],
)
def test_columns_of_other_types_are_converted(url: str, kind: str, lists: list[Any]) -> None:
    for statement in STRANGE.format(kind=kind).split(";"):
        sql(url, statement)
    for number, given in enumerate(lists):
        sql(
            url,
            "INSERT INTO incoming_emails (zendesk_ticket_id, attachment_urls, processing_status, idempotency_key, raw_body)"
            " VALUES ($1, $2, $3, 'same', '{}')",
            number,
            given,
            "PENDING" if number else "COMPLETED",
        )

    status, said = take_over(url, "--yes")

    assert status == 0, said
    rows = sql(
        url,
        "SELECT zendesk_ticket_id, processing_status, idempotency_key, raw_body, raw_body_before::text"
        " FROM incoming_emails ORDER BY id",
    )
    assert rows == [
        (str(n), "received" if n else "completed", f"same (e-mail {n + 1})" if n else "same", None, "{}")
        for n in range(5)
    ]
    assert count(url, "attachments") == {"failed": 1, "pending": 1}
    assert sql(url, "SELECT DISTINCT received_at::text FROM incoming_emails") == [("2025-01-31 12:00:00+00",)]
    assert take_over(url, "--yes")[1].startswith("This database needs no takeover")
    sql(
        url, "INSERT INTO incoming_emails (zendesk_ticket_id) VALUES ('1')"
    )  # a second e-mail of the same ticket


def test_obstacles_are_reported_before_any_change(url: str) -> None:
    sql(url, "CREATE TABLE incoming_emails (id uuid PRIMARY KEY)")
    sql(url, "CREATE TABLE attachments (id int)")

    status, said = take_over(url, "--yes")

    assert status == 1
    assert "Cannot take over: The column id has the type uuid, but Holdfast needs integers" in said
    assert "Cannot take over: The table attachments exists" in said


def test_a_view_in_the_way_is_named_with_its_column(url: str) -> None:
    fill(url)
    sql(url, "CREATE VIEW open_work AS SELECT id FROM incoming_emails WHERE processing_status = 'pending'")

    refused = take_over(url, "--yes", *MAPS)
    sql(url, "DROP VIEW open_work")
    done = take_over(url, "--yes", *MAPS)

    assert refused[0] == 1
    assert 'view open_work depends on column "processing_status". Drop it before, and' in refused[1]
    assert done[0] == 0, done[1]


def test_a_meaning_of_a_state_that_no_row_has_is_refused(url: str) -> None:
    fill(url)

    status, said = take_over(url, "--yes", *MAPS, "--map", "procesed=failed")
    done, again = take_over(url, "--yes", *MAPS), take_over(url, "--yes", *MAPS)

    assert status == 2
    assert (
        "no e-mail has the state 'procesed'; the states are '', 'archived', 'completed', 'failed', " in said
    )
    assert (done[0], again[0]) == (0, 0)


def test_database_that_needs_no_takeover_gets_one_sentence(url: str) -> None:
    empty = take_over(url, "--yes")
    migrate(url, "upgrade", REVISIONS[0])
    older = take_over(url, "--yes")
    migrate(url, "upgrade", "head")
    current = take_over(url, "--yes")
    sql(url, "UPDATE alembic_version SET version_num = '29991231_2359'")
    newer, upgraded = take_over(url, "--yes"), upgrade(url)
    sql(url, "DROP TABLE incoming_emails CASCADE")
    sql(url, "UPDATE alembic_version SET version_num = 'add_invoices'")
    strange = upgrade(url)

    assert empty == (0, "The database is empty, and there is nothing to take over: run `holdfast migrate`.\n")
    assert older[0] == current[0] == 0
    assert (
        older[1]
        == "This is a database of an older Holdfast, which needs no takeover: run `holdfast migrate`.\n"
    )
    assert newer == (1, upgraded.stderr)
    assert upgraded.stderr == (
        f"The database is newer (29991231_2359) than this program ({HEAD}): nothing to migrate, and this version works with it.\n"
    )
    assert "another program's" in strange.stderr
    assert strange.stderr.count("\n") == 1


def test_migration_of_another_systems_database_is_refused_in_one_sentence(url: str) -> None:
    fill(url, 1, SAGA)

    done = upgrade(url)

    assert done.returncode == 1
    assert done.stderr == (
        f"The table incoming_emails is another system's (Alembic revision {SAGA}):"
        " `holdfast takeover --plan` lists the steps to take it over.\n"
    )
