"""A worker's row: there while it lives, ended when it ends, and in nobody's way."""

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


async def test_a_worker_has_a_row_while_it_works_and_says_when_it_stopped(
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


async def test_a_beat_tells_how_many_jobs_are_held(database: asyncpg.Connection, res: Resources) -> None:
    async def beat() -> Any:
        return await row_of(database)

    res.claims.update({(1, 1), (2, 1)})
    async with beating(res):
        row = await eventually(beat)
    res.claims.clear()

    assert row["jobs"] == 2


@pytest.mark.parametrize("stopped_at", ["now()", "NULL"], ids=["that stopped", "that was killed"])
async def test_a_process_with_the_name_and_id_of_one_begins_anew(
    stopped_at: str, database: asyncpg.Connection, res: Resources
) -> None:
    """In a container every process has the same id."""
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


async def test_who_was_not_heard_of_for_a_day_is_forgotten(
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


async def test_while_postgres_is_away_a_worker_only_warns(
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
    """Give the worker a directory of its own for its file, as the probe has it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "holdfast-worker.test.alive"


async def test_a_probe_sees_a_worker_while_it_lives_without_postgres_and_redis(
    here: Path, settings: Settings
) -> None:
    async with before_postgres(settings) as (proxy, through), open_resources(through) as res:
        proxy.cut()
        async with beating(res):
            while await asyncio.to_thread(alive.worker_complaint, "worker.test"):
                await asyncio.sleep(0.01)
        ended = await asyncio.to_thread(alive.worker_complaint, "worker.test")

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
def test_a_probe_says_what_is_wrong_with_a_worker(content: str, complaint: str, here: Path) -> None:
    now = time.monotonic()
    here.write_text(content.format(pid=os.getpid(), now=now, long_ago=now - 31, before_a_reboot=now + 1000))

    found = alive.worker_complaint("worker.test")

    assert bool(found) is bool(complaint)
    assert complaint in found


def test_a_probe_neither_follows_links_nor_waits_for_a_pipe(here: Path, tmp_path: Path) -> None:
    """Others may put them into /tmp before a worker starts."""
    (tmp_path / "precious").write_text("kept")
    here.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"):
        alive.beat("worker.test")
    here.unlink()
    os.mkfifo(here)
    with pytest.raises(OSError, match="No such device"):
        alive.beat("worker.test")

    assert (tmp_path / "precious").read_text() == "kept"
    assert "cannot be read" in alive.worker_complaint("worker.test")


def test_a_probe_loads_next_to_nothing(here: Path) -> None:
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

    found = await asyncio.to_thread(alive.web_complaint)
    monkeypatch.setenv("PORT", "1")
    away = await asyncio.to_thread(alive.web_complaint)

    assert found == ""
    assert away.startswith("web: no answer from 127.0.0.1:1 ")
