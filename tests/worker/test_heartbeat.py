"""A worker's row and file: present while it lives, ended when it stops, and harmless when they fail."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.config.settings import Settings
from service.resources import Resources, open_resources
from service.telemetry import alive, logs
from service.worker.heartbeat import beating
from tests.conftest import ROOT, Server, eventually, working
from tests.support.proxy import before_postgres


async def row_of(database: asyncpg.Connection, name: str = "worker.test") -> Any:
    return await database.fetchrow("SELECT * FROM workers WHERE name = $1", name)


async def test_a_worker_has_a_row_with_the_time_of_its_stop(
    database: asyncpg.Connection, settings: Settings, res: Resources
) -> None:
    async def beat() -> Any:
        return await row_of(database)

    async with working(settings):
        living = await eventually(beat)
    ended = await row_of(database)

    assert (living["pid"], living["jobs"], living["stopped_at"]) == (os.getpid(), 0, None)
    assert living["version"]
    assert "# TYPE holdfast_attempts_total counter" in living["metrics"]
    assert ended["stopped_at"] >= ended["started_at"] == living["started_at"]


async def test_a_heartbeat_has_the_number_of_claimed_jobs(
    database: asyncpg.Connection, res: Resources
) -> None:
    async def beat() -> Any:
        return await row_of(database)

    res.claims.update({(1, 1), (2, 1)})
    async with beating(res):
        row = await eventually(beat)
    res.claims.clear()

    assert row["jobs"] == 2


@pytest.mark.parametrize("stopped_at", ["now()", "NULL"], ids=["that stopped", "that was killed"])
async def test_a_process_with_the_name_and_id_of_an_earlier_one_replaces_its_row(
    stopped_at: str, database: asyncpg.Connection, res: Resources
) -> None:
    """In containers all processes have the same id."""
    await database.execute(
        "INSERT INTO workers (name, pid, started_at, seen_at, stopped_at, version)"
        f" VALUES ('worker.test', $1, now() - interval '2 days', now() - interval '2 days', {stopped_at}, '0')",
        os.getpid(),
    )

    async def beat() -> bool:
        return bool(await database.fetchval("SELECT stopped_at IS NULL AND version <> '0' FROM workers"))

    async with beating(res):
        assert await eventually(beat)
        age = await database.fetchval("SELECT extract(epoch FROM now() - started_at) FROM workers")

    assert age < 3600


async def test_rows_of_workers_silent_for_a_day_are_removed(
    database: asyncpg.Connection, res: Resources
) -> None:
    await database.executemany(
        "INSERT INTO workers (name, pid, seen_at, version) VALUES ($1, 1, now() - $2 * interval '1 hour', '1')",
        [("yesterday", 23), ("long ago", 25), ("longer ago", 2500)],
    )

    async def beat() -> Any:
        return await row_of(database)

    async with beating(res):
        await eventually(beat)

    assert {row["name"] for row in await database.fetch("SELECT name FROM workers")} == {
        "yesterday",
        "worker.test",
    }


async def test_during_an_outage_of_postgres_a_heartbeat_only_warns(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json", "INFO")
    async with before_postgres(settings) as (proxy, through), open_resources(through) as res:
        proxy.cut()
        said: list[dict[str, Any]] = []

        async def warned() -> bool:
            said.extend(json.loads(line) for line in capsys.readouterr().out.splitlines())
            return any(line["event"] == "heartbeat_failed" for line in said)

        async with beating(res), asyncio.timeout(60):
            assert await eventually(warned)

    assert {line["level"] for line in said} == {"warning"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the worker and the probe a directory of their own for the file."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "holdfast-worker.test.alive"


async def test_a_probe_sees_a_live_worker_without_postgres_and_redis(here: Path, settings: Settings) -> None:
    async with before_postgres(settings) as (proxy, through), open_resources(through) as res:
        proxy.cut()
        async with beating(res):
            while await asyncio.to_thread(alive.worker_problem, "worker.test"):
                await asyncio.sleep(0.01)
        ended = await asyncio.to_thread(alive.worker_problem, "worker.test")

    assert (
        ended
        == f"worker worker.test: {here} does not exist; it did not start here, or has another WORKER_NAME or TMPDIR"
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{pid} {now}", ""),
        ("{pid} {long_ago}", "was last alive "),
        ("{pid} {before_a_reboot}", "was last alive "),
        ("99999999 {now}", "process 99999999 has ended"),
        ("", "cannot be read"),
        ("x y z", "cannot be read"),
    ],
)
def test_a_probe_explains_a_worker_that_is_not_alive(content: str, complaint: str, here: Path) -> None:
    now = time.monotonic()
    here.write_text(content.format(pid=os.getpid(), now=now, long_ago=now - 31, before_a_reboot=now + 1000))

    found = alive.worker_problem("worker.test")

    assert bool(found) is bool(complaint)
    assert complaint in found


def test_a_probe_neither_follows_links_nor_waits_for_a_pipe(here: Path, tmp_path: Path) -> None:
    """Other users may put them into /tmp before a worker starts."""
    (tmp_path / "precious").write_text("kept")
    here.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"):
        alive.beat("worker.test")
    here.unlink()
    os.mkfifo(here)
    with pytest.raises(OSError, match="No such device"):
        alive.beat("worker.test")

    assert (tmp_path / "precious").read_text() == "kept"
    assert "cannot be read" in alive.worker_problem("worker.test")


def test_a_probe_imports_few_modules(here: Path) -> None:
    alive.beat("worker.test")
    words = [sys.executable, "-X", "importtime", "-m", "service", "alive", "worker"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "WORKER_NAME": "worker.test"},
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    assert (done.returncode, done.stdout) == (0, "worker: alive\n")
    assert not {"click", "asyncio", "pydantic", "sqlalchemy", "redis", "socket"} & loaded


async def test_a_probe_asks_the_web_process(client: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", client.url.rpartition(":")[2])

    found = await asyncio.to_thread(alive.web_problem)
    monkeypatch.setenv("PORT", "1")
    away = await asyncio.to_thread(alive.web_problem)

    assert found == ""
    assert away.startswith("web: no answer from 127.0.0.1:1 ")
