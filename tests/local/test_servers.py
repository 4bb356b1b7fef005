"""The local Postgres and Valkey are durable and private, and end with their parent."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio as aioredis

from service.local.launch import ServerError
from service.local.servers import postgres, valkey
from tests.support.processes import ROOT, linux, processes, wait_for


async def _execute(url: str, statement: str) -> object:
    connection = await asyncpg.connect(
        url, password="any"
    )  # without a password, asyncpg reads a file, which blocks
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def test_postgres_keeps_its_data_between_runs_and_leaves_no_process(tmp_path: Path) -> None:
    with postgres(tmp_path) as url:
        asyncio.run(_execute(url, "CREATE TABLE facts AS SELECT 42 AS answer"))
    with postgres(tmp_path) as url:
        answer = asyncio.run(_execute(url, "SELECT answer FROM facts"))
        durable = asyncio.run(_execute(url, "SELECT current_setting('fsync')"))

    assert answer == 42
    assert durable == "on"
    assert processes(str(tmp_path)) == []


def test_postgres_listens_on_a_private_unix_socket_only(tmp_path: Path) -> None:
    with postgres(tmp_path) as url:
        assert asyncio.run(_execute(url, "SELECT current_setting('listen_addresses')")) == ""

        assert url == f"postgresql://postgres@/postgres?host={tmp_path}"
        assert (tmp_path / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0
        assert tmp_path.stat().st_mode & 0o077 == 0


def test_valkey_refuses_to_evict_and_listens_on_a_private_unix_socket_only(tmp_path: Path) -> None:
    async def ask(url: str) -> tuple[object, ...]:
        async with aioredis.Redis.from_url(url, decode_responses=True) as client:
            settings = await client.config_get("maxmemory-policy", "save", "appendonly", "port")
            return settings["maxmemory-policy"], settings["save"], settings["appendonly"], settings["port"]

    with valkey(tmp_path) as url:
        assert asyncio.run(ask(url)) == ("noeviction", "", "no", "0")

        assert (tmp_path / "valkey.sock").stat().st_mode & 0o077 == 0
    assert processes(str(tmp_path)) == []


def test_long_paths_and_paths_with_special_characters_work(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 100) / "with space & per%cent"

    with postgres(directory / "postgres") as url, valkey(directory / "valkey"):
        assert asyncio.run(_execute(url, "SELECT 1")) == 1


def test_a_second_process_cannot_use_the_same_directory(tmp_path: Path) -> None:
    with (
        valkey(tmp_path),
        pytest.raises(ServerError, match=rf"in use by another holdfast \(process {os.getpid()}\)"),
        valkey(tmp_path),
    ):
        pass


def _run_servers(directory: Path) -> subprocess.Popen[bytes]:
    code = """
import sys, time
from pathlib import Path
from service.local.servers import postgres, valkey
with postgres(Path(sys.argv[1]) / "pg"), valkey(Path(sys.argv[1]) / "vk"):
    print("up", flush=True)
    time.sleep(100)
"""
    command = [sys.executable, "-c", code, str(directory)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout
    with process.stdout as lines:
        assert lines.readline() == b"up\n"
    return process


@linux
def test_servers_end_with_a_killed_parent(tmp_path: Path) -> None:
    parent = _run_servers(tmp_path)
    parent.kill()
    parent.wait()

    wait_for(lambda: not processes(str(tmp_path)))


@linux
def test_servers_restart_after_all_processes_were_killed(tmp_path: Path) -> None:
    parent = _run_servers(tmp_path)
    for pid in (parent.pid, *processes(str(tmp_path))):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    parent.wait()

    with postgres(tmp_path / "pg") as url, valkey(tmp_path / "vk"):
        assert asyncio.run(_execute(url, "SELECT 1")) == 1


def test_a_stale_pid_file_with_the_number_of_another_program_is_ignored(tmp_path: Path) -> None:
    with postgres(tmp_path):
        stale = (tmp_path / "data" / "postmaster.pid").read_text().splitlines()
    (tmp_path / "data" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *stale[1:]]))

    with postgres(tmp_path) as url:
        assert asyncio.run(_execute(url, "SELECT 1")) == 1
