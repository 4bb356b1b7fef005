"""Look at everything at once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from service.checks.clocks import check_clock_of_postgres, check_clock_of_redis
from service.checks.finding import CONNECTIONS, Check, probe
from service.checks.postgres import (
    check_connections,
    check_history,
    check_migrations,
    check_postgres,
    check_waiting,
    check_workers,
)
from service.checks.redis import check_eviction, check_redis
from service.checks.settings import check_settings
from service.checks.sync import check_sync, check_targets
from service.checks.zendesk import check_zendesk
from service.resources import Resources
from service.storage import objects

_POSTGRES = "check DATABASE_URL, and that Postgres runs and lets this host in"
_TABLES = "run `holdfast migrate`, if Postgres is there: it may have no such tables"
_REDIS = "check REDIS_URL, and that Redis runs and lets this host in; e-mails are taken in meanwhile"
_STORAGE = "check STORAGE_URL, its credentials and their rights; e-mails are taken in meanwhile"


async def examine(res: Resources) -> list[Check]:
    """Look at all that a Holdfast of these settings stands on, in seconds; raises nothing."""
    looks = [probe(name, lambda look=look: look(res), advice) for name, look, advice in _PROBES]  # type: ignore[misc]
    found, of_sync = await asyncio.gather(asyncio.gather(*looks), check_sync(res))
    return [*check_settings(res.settings), *found, *of_sync]


async def examine_release(res: Resources) -> list[Check]:
    """Look whether the settings lead to what works, in seconds; not at Postgres, which migrating shows. Raises nothing.

    Where Redis is away, workers find their jobs in Postgres; without Zendesk's credentials, e-mails are taken in, and
    can be retried: both are warnings, as is what RELEASE_TOLERATES names.
    """
    storage, redis, zendesk, targets = await asyncio.gather(
        probe("storage", lambda: check_storage(res), _STORAGE),
        probe("redis", lambda: check_redis(res), _REDIS),
        check_zendesk(res),
        check_targets(res),
    )
    tolerates = res.settings.release_tolerates
    is_set_wrong = "REDIS_" in redis.found  # its certificate or password, which no waiting puts right
    return [
        *check_settings(res.settings),
        _warned_of(storage) if "storage" in tolerates else storage,
        redis if is_set_wrong else _warned_of(redis),
        *(map(_warned_of, targets) if "sync" in tolerates else targets),
        _warned_of(zendesk),
    ]


async def check_storage(res: Resources) -> Check:
    """Write an object, read it, delete it."""
    kind = (res.settings.storage_url or "").partition(":")[0]
    where = "file, which web and workers must share" if kind == "file" else kind
    if await objects.probe(res.storage):
        return Check("storage", True, f"writes, reads and deletes ({where})")
    advice = "let it delete (in S3, s3:DeleteObject): what this check wrote, holdfast-check-*, stays there"
    return Check("storage", None, f"writes and reads, but does not delete ({where})", advice)


_PROBES: tuple[tuple[str, Callable[[Resources], Awaitable[Check]], str], ...] = (
    ("postgres", check_postgres, _POSTGRES),
    ("migrations", check_migrations, _POSTGRES),
    (CONNECTIONS, check_connections, _TABLES),
    ("history", check_history, _TABLES),
    ("redis", check_redis, _REDIS),
    ("eviction", check_eviction, _REDIS),
    ("storage", check_storage, _STORAGE),
    ("zendesk", check_zendesk, ""),
    ("clock of Postgres", check_clock_of_postgres, _POSTGRES),
    ("clock of Redis", check_clock_of_redis, _REDIS),
    ("workers", check_workers, _TABLES),
    ("waiting", check_waiting, _TABLES),
)


def _warned_of(check: Check) -> Check:
    return replace(check, ok=check.ok or None)
