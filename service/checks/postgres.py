"""Check Postgres: version, tables, connections, history, and the workers and jobs that it records."""

import math

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts import restored
from service.alerts.condition import clock
from service.alerts.record import open_alerts
from service.checks.probe import CONNECTIONS, SECONDS, Check
from service.config.settings import Settings
from service.errors import Transient
from service.formatting import duration
from service.migrations.revisions import DatabaseState, look
from service.postgres.engine import WEB, check_writable, connect, is_pooled, run, within
from service.postgres.pool import ADVICE, Usage, usage
from service.queries import overview
from service.queries.calls import api_use_of
from service.queries.workers import workers_of
from service.resources import Resources
from service.takeover.plan import keeps_limits

OLDEST = 14  # the oldest version that its developers still maintain
_READ_ONLY = (
    "point DATABASE_URL to the primary, or name all servers in it and add target_session_attrs=read-write;"
    " or turn default_transaction_read_only off"
)
# For a release, and for a command that somebody runs meanwhile.
_SPARE = 2


async def check_postgres(res: Resources) -> Check:
    statement = text("SELECT current_setting('server_version_num')::int")
    number: int = await run(res.engine, SECONDS, lambda conn: conn.scalar(statement))
    found = f"version {number // 10_000}.{number % 10_000}"
    if number < OLDEST * 10_000:
        return Check("postgres", False, found, f"use version {OLDEST} or newer")
    try:
        await run(res.engine, SECONDS, check_writable)
    except Transient as exc:
        if exc.code != "database_read_only":
            raise
        return Check("postgres", False, f"{found}, but it accepts no writes", _READ_ONLY)
    pooled = ", behind PgBouncer or another pooler" if await run(res.engine, SECONDS, is_pooled) else ""
    return Check("postgres", True, found + pooled)


async def check_migrations(res: Resources) -> Check:
    async def ask(conn: AsyncConnection) -> tuple[DatabaseState, bool]:
        standing = await look(conn)
        return standing, standing.kind == "current" and await keeps_limits(conn)

    standing, has_limits = await run(res.engine, SECONDS, ask)
    if has_limits:
        found = "all were run, but incoming_emails keeps limits of another system"
        advice = "`holdfast takeover --plan` lists them, and `holdfast takeover` removes them"
        return Check("migrations", None, found, advice)
    is_good = {"current": True, "newer": None}.get(standing.kind, False)
    return Check("migrations", is_good, standing.found, standing.advice)


async def check_connections(res: Resources) -> Check:
    if await run(res.engine, SECONDS, is_pooled):
        return Check(CONNECTIONS, True, "shared by a connection pooler")
    alive = [worker for worker in await run(res.engine, SECONDS, workers_of) if worker.state == "alive"]
    return judge_connections(res.settings, max(1, len(alive)), await run(res.engine, SECONDS, usage))


def judge_connections(settings: Settings, workers: int, now: Usage) -> Check:
    """Compare the connections that all processes may open with those that the server allows."""
    size, free = settings.database_pool_size, now.limit - now.others
    # Further web dynos show by the connections that they hold.
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
    states = [worker.state for worker in await run(res.engine, SECONDS, workers_of)]
    alive, silent = states.count("alive"), states.count("silent")
    found = f"{alive} alive, {silent} silent"
    if not alive:
        return Check("workers", False, found, "start one with `holdfast worker`: no job is processed")
    if silent:
        return Check(
            "workers", None, found, "`holdfast status` names them: they died, or cannot reach Postgres"
        )
    return Check("workers", True, found)


async def check_waiting(res: Resources) -> Check:
    stats = await within(SECONDS, overview.stats(res.engine))
    seconds = stats.oldest_not_begun_seconds
    if seconds is None:
        queued = stats.by_status["queued"]
        return Check("waiting", True, f"{queued:,} wait for another attempt" if queued else "nothing waits")
    is_late = seconds > res.settings.alert_waiting_seconds
    advice = "`holdfast emails list --status queued` lists them, and the workers' log tells why"
    found = f"the oldest has waited {duration(seconds)}"
    return Check("waiting", None if is_late else True, found, advice if is_late else "")


async def check_calls(res: Resources) -> Check:
    """Check whether calls to Zendesk are slowed, because few of its minute are left for all programs."""
    async with connect(res.engine) as conn:
        use = await api_use_of(conn, res.settings)
    if use is None:
        return Check("calls", True, "none to Zendesk yet")
    if use.slowed_seconds is None:
        return Check("calls", True, use.sentence)
    advice = "nothing is lost: e-mails wait. Look which other programs use the account's API, or ask for a larger plan"
    return Check("calls", None, use.sentence, advice)


async def check_history(res: Resources) -> Check:
    """Check whether Postgres still has the newest e-mail that it had; an old backup would lack it."""
    mark = await restored.read_mark(res)
    async with connect(res.engine) as conn:
        finding = await restored.find_older(conn, mark)
        found = [finding] if finding else await restored.find_open(conn, await open_alerts(conn))
    if found:
        return Check("history", False, found[0].summary, found[0].detail.replace("\n", " "))
    newest = f"e-mail {mark.id} of {clock(mark.at)} was the newest" if mark else "nothing to compare with yet"
    return Check("history", True, newest)
