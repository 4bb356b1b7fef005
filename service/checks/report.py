"""Check an installation: all checks of `holdfast check` and of `holdfast release`, at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from service.checks.connection import check_connection
from service.checks.dependencies import POSTGRES_ADVICE, REDIS_ADVICE, STORAGE_ADVICE
from service.checks.postgres import (
    check_calls,
    check_connections,
    check_history,
    check_migrations,
    check_postgres,
    check_waiting,
    check_workers,
)
from service.checks.probe import CONNECTIONS, Check, probe
from service.checks.removals import check_removals
from service.checks.servers import (
    check_clock_of_postgres,
    check_clock_of_redis,
    check_eviction,
    check_redis,
    check_storage,
)
from service.checks.settings import check_settings
from service.checks.sync import check_syncs, check_targets
from service.checks.zendesk import check_zendesk
from service.resources import Resources

_TABLES_ADVICE = "if Postgres runs, run `holdfast migrate`: tables may be missing"


@dataclass(frozen=True, slots=True)
class CheckDefinition:
    """One check of a dependency, and the advice if it fails."""

    name: str
    dependency: str
    look: Callable[[Resources], Awaitable[Check]]
    advice: str = ""


async def check_all(res: Resources) -> list[Check]:
    """Check the settings and every dependency, in seconds. Raises nothing."""
    probes = [*_PROBES, *([_SYNCS] if res.targets else [])]
    found, targets = await asyncio.gather(_run(probes, res), check_targets(res))
    no_target = Check("sync", True, "SYNC_URL is not set: finished e-mails are not synced")
    return [*check_settings(res.settings), *found, *(targets if res.targets else [no_target])]


async def check_release(res: Resources) -> list[Check]:
    """Check whether the settings work, in seconds. Raises nothing. The migrations check Postgres.

    An outage of Redis is a warning, because workers find their jobs in Postgres. Wrong credentials for
    Zendesk are one, because e-mails are accepted and can be retried. RELEASE_TOLERATES names further ones.
    """
    storage, redis, zendesk, targets = await asyncio.gather(
        probe("storage", lambda: check_storage(res), STORAGE_ADVICE),
        probe("redis", lambda: check_redis(res), REDIS_ADVICE),
        check_zendesk(res),
        check_targets(res),
    )
    tolerates = res.settings.release_tolerates
    is_set_wrong = "REDIS_" in redis.found  # its certificate or password: waiting does not help
    return [
        *check_settings(res.settings),
        _as_warning(storage) if "storage" in tolerates else storage,
        redis if is_set_wrong else _as_warning(redis),
        *(map(_as_warning, targets) if "sync" in tolerates else targets),
        _as_warning(zendesk),
    ]


_PROBES = (
    CheckDefinition("postgres", "Postgres", check_postgres, POSTGRES_ADVICE),
    CheckDefinition("migrations", "Postgres", check_migrations, POSTGRES_ADVICE),
    CheckDefinition(CONNECTIONS, "Postgres", check_connections, _TABLES_ADVICE),
    CheckDefinition("history", "Postgres", check_history, _TABLES_ADVICE),
    CheckDefinition("redis", "Redis", check_redis, REDIS_ADVICE),
    CheckDefinition("eviction", "Redis", check_eviction, REDIS_ADVICE),
    CheckDefinition("storage", "storage", check_storage, STORAGE_ADVICE),
    CheckDefinition("zendesk", "Zendesk", check_zendesk),
    CheckDefinition("connection", "Postgres", check_connection, _TABLES_ADVICE),
    CheckDefinition("clock of Postgres", "Postgres", check_clock_of_postgres, POSTGRES_ADVICE),
    CheckDefinition("clock of Redis", "Redis", check_clock_of_redis, REDIS_ADVICE),
    CheckDefinition("workers", "Postgres", check_workers, _TABLES_ADVICE),
    CheckDefinition("waiting", "Postgres", check_waiting, _TABLES_ADVICE),
    CheckDefinition("calls", "Postgres", check_calls, _TABLES_ADVICE),
    CheckDefinition("removals", "Postgres", check_removals, _TABLES_ADVICE),
)
_SYNCS = CheckDefinition("syncs", "Postgres", check_syncs, _TABLES_ADVICE)


async def _run(probes: Sequence[CheckDefinition], res: Resources) -> list[Check]:
    """Run probes; a problem that several probes of a dependency meet is reported by the first one alone."""
    checks = await asyncio.gather(
        *(probe(each.name, lambda look=each.look: look(res), each.advice) for each in probes)  # type: ignore[misc]
    )
    first: dict[tuple[str, str], str] = {}
    reported = []
    for each, check in zip(probes, checks, strict=True):
        reporter = first.setdefault((each.dependency, check.found), each.name)
        is_known = check.ok is False and reporter != each.name and not check.advice.startswith("see ")
        reported.append(Check(each.name, False, "not checked", f"see {reporter}") if is_known else check)
    return reported


def _as_warning(check: Check) -> Check:
    return replace(check, ok=check.ok or None)
