"""Look at Postgres: its version, its tables, whether it has enough connections, and what waits in it."""

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Row, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.config.settings import Settings
from service.database import WEB, check_writable, connect, is_pooled, run, within
from service.doctor.findings import CONNECTIONS, SECONDS, Check
from service.errors import Transient
from service.pool import ADVICE, Usage, usage
from service.queries import overview
from service.queries.verdict import duration
from service.queries.workers import WorkerView, workers_of
from service.resources import Resources

OLDEST = 14  # the oldest version that its makers still look after
_READ_ONLY = (
    "let DATABASE_URL lead to the primary, or name all servers in it and add target_session_attrs=read-write;"
    " or turn default_transaction_read_only off"
)
_SCRIPTS = Path(__file__).parents[2] / "alembic"
# Of a release and of a command that somebody runs meanwhile.
_SPARE = 2


async def check_postgres(res: Resources) -> Check:
    number = int((await _row(res.engine, text("SELECT current_setting('server_version_num')")))[0])
    found = f"version {number // 10_000}.{number % 10_000}"
    if number < OLDEST * 10_000:
        return Check("postgres", False, found, f"use version {OLDEST} or newer")
    try:
        await run(res.engine, SECONDS, check_writable)
    except Transient as exc:
        if exc.code != "database_read_only":
            raise
        return Check("postgres", False, f"{found}, but it accepts no writes", _READ_ONLY)
    pooled = ", behind PgBouncer or another pooler" if await _is_pooled(res.engine) else ""
    return Check("postgres", True, found + pooled)


async def check_migrations(res: Resources) -> Check:
    table = await _row(res.engine, select(func.to_regclass("alembic_version")))
    now = await _row(res.engine, text("SELECT version_num FROM alembic_version")) if table[0] else None
    return await asyncio.to_thread(_compare, now[0] if now else None)


async def check_connections(res: Resources) -> Check:
    if await _is_pooled(res.engine):
        return Check(CONNECTIONS, True, "shared by the pooler before Postgres")
    alive = [worker for worker in await _workers(res.engine) if worker.state == "alive"]
    return judge_connections(res.settings, max(1, len(alive)), await run(res.engine, SECONDS, usage))


def judge_connections(settings: Settings, workers: int, now: Usage) -> Check:
    """Compare the connections that all processes may open with those that the server allows."""
    size, free = settings.database_pool_size, now.limit - now.others
    # Further web dynos are known by what they hold.
    web = max(settings.web_concurrency, math.ceil(now.held.get(WEB, 0) / size))
    wanted = (web + workers) * size + _SPARE
    found = (
        f"{web} web and {workers} worker processes may open {size} each,"
        f" a release and a command 1 each: {wanted} in all, {free} are available; {now}"
    )
    if wanted <= free:
        return Check(CONNECTIONS, None if now.is_full else True, found, ADVICE if now.is_full else "")
    fitting = (free - _SPARE) // (web + workers)
    least = f"set DATABASE_POOL_SIZE={fitting}; or " if fitting > 1 else ""
    return Check(CONNECTIONS, False, found, f"{least}{ADVICE}")


async def check_workers(res: Resources) -> Check:
    states = [worker.state for worker in await _workers(res.engine)]
    alive, silent = states.count("alive"), states.count("silent")
    found = f"{alive} alive, {silent} silent"
    if not alive:
        return Check("workers", False, found, "start one with `holdfast worker`: nothing is worked on")
    if silent:
        return Check(
            "workers", None, found, "`holdfast status` names them: they died, or cannot reach Postgres"
        )
    return Check("workers", True, found)


async def check_waiting(res: Resources) -> Check:
    stats = await within(SECONDS, overview.stats(res.engine))
    seconds = stats.oldest_not_begun_seconds
    if seconds is None:
        again = stats.by_status["queued"]
        return Check("waiting", True, f"{again:,} wait for another attempt" if again else "nothing waits")
    is_late = seconds > res.settings.alert_waiting_seconds
    advice = "see which with `holdfast emails list --status queued`, and why in the workers' log"
    found = f"the oldest has waited {duration(seconds)}"
    return Check("waiting", None if is_late else True, found, advice if is_late else "")


async def _row(engine: AsyncEngine, statement: Any) -> Row[Any]:  # noqa: ANN401 text and select alike
    async def ask() -> Row[Any]:
        async with connect(engine) as conn:
            return (await conn.execute(statement)).one()

    return await within(SECONDS, ask())


async def _is_pooled(engine: AsyncEngine) -> bool:
    async def ask() -> bool:
        async with connect(engine) as conn:
            return await is_pooled(conn)

    return await within(SECONDS, ask())


async def _workers(engine: AsyncEngine) -> Sequence[WorkerView]:
    async def ask() -> Sequence[WorkerView]:
        async with connect(engine) as conn:
            return await workers_of(conn)

    return await within(SECONDS, ask())


def _compare(now: str | None) -> Check:
    """Look which migrations are to be run on a database of this revision."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 heavy, and for this alone
    from alembic.script.revision import RevisionError  # noqa: PLC0415 likewise
    from alembic.util import CommandError  # noqa: PLC0415 likewise

    name = "migrations"
    if not _SCRIPTS.is_dir():
        return Check(
            name, None, "there are none to compare with", "run this from a checkout of the repository"
        )
    try:
        missing = list(ScriptDirectory(str(_SCRIPTS)).iterate_revisions("head", now or "base"))
    except (CommandError, RevisionError):
        found = "the database is newer than this program"
        return Check(name, False, found, "run the newest version of Holdfast, as another process does")
    if missing:  # the newest first
        found = f"{len(missing)} not run, the next is {Path(missing[-1].path).stem}"
        return Check(name, False, found, "run `holdfast migrate`")
    return Check(name, True, "all were run")
