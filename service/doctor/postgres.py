"""Look at Postgres: its version, its tables, whether it has enough connections, and what waits in it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Row, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.alerts import restored
from service.alerts.finding import clock
from service.alerts.record import open_alerts
from service.database import check_writable, connect, is_pooled, run, within
from service.doctor.findings import SECONDS, Check
from service.errors import Transient
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
# Who is no superuser sees of other roles' sessions neither the name nor the kind: they count as others'.
_CONNECTIONS = text("""
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0) AS usable,
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user) AS of_role,
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()) AS of_database,
        (
            SELECT count(*) FROM pg_stat_activity
            WHERE datid IS NOT NULL AND coalesce(application_name, '') <> 'holdfast'
        ) AS others
""")


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
        return Check("connections", True, "shared by the pooler before Postgres")
    row = await _row(res.engine, _CONNECTIONS)
    alive = [worker for worker in await _workers(res.engine) if worker.state == "alive"]
    settings = res.settings
    processes = settings.web_concurrency + max(1, len(alive))
    wanted = processes * settings.database_pool_size
    free = min(
        limit for limit in (row.usable - row.others, row.of_role, row.of_database) if limit is not None
    )
    found = f"{processes} processes may take {settings.database_pool_size} each, {free} are to be had"
    advice = "lower DATABASE_POOL_SIZE, raise max_connections, or put PgBouncer before Postgres"
    return Check("connections", wanted <= free, found, "" if wanted <= free else advice)


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


async def check_history(res: Resources) -> Check:
    """Look whether Postgres still knows the newest e-mail that it knew."""
    mark = await restored.read_mark(res)
    async with connect(res.engine) as conn:
        finding = await restored.find_older(conn, mark)
        found = [finding] if finding else await restored.find_open(conn, await open_alerts(conn))
    if found:
        return Check("history", False, found[0].summary, found[0].detail.replace("\n", " "))
    told = f"e-mail {mark.id} of {clock(mark.at)} was the newest" if mark else "nothing to compare with yet"
    return Check("history", True, told)


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
