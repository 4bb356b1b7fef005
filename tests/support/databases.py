"""Empty databases for tests of the migrations."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from itertools import count
from typing import Any

import asyncpg
import pytest

from tests.conftest import ROOT, migrate

VERSIONS = ROOT / "service" / "migrations" / "versions"
FIRST, STATE_MACHINE, *_ = REVISIONS = [path.name[:13] for path in sorted(VERSIONS.glob("*.py"))]
HEAD = REVISIONS[-1]
_numbers = count(1)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


UPGRADE = command("alembic", "upgrade", "head")


@pytest.fixture
def url(database_url: str) -> Iterator[str]:
    """Create a database without tables; drop it after the test."""
    with empty_database(database_url) as url:
        yield url


@contextmanager
def empty_database(database_url: str) -> Iterator[str]:
    """Create a database without tables; drop it after the block."""
    name = f"migrations_{os.getpid()}_{next(_numbers)}"
    sql(database_url, f"CREATE DATABASE {name}")
    yield database_url.replace("/postgres?", f"/{name}?")
    sql(database_url, f"DROP DATABASE {name} WITH (FORCE)")


def sql(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    return asyncio.run(run())


def upgrade(url: str) -> subprocess.CompletedProcess[str]:
    """Run `alembic upgrade head` in this process: nothing has to be imported."""
    status, said = 0, StringIO()
    with redirect_stderr(said):
        try:
            migrate(url, "upgrade", "head")
        except SystemExit as exc:
            status = int(exc.code or 0)
    return subprocess.CompletedProcess(UPGRADE, status, "", said.getvalue())


def environment(url: str | None) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return others if url is None else {**others, "DATABASE_URL": url}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90  # a busy machine runs a process for a minute before it imports all
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
