"""Ping every dependency: the quick probes of `/readyz` and the dashboard, with the advice of `holdfast check`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from service.checks.probe import Check, failed
from service.checks.zendesk import check_zendesk
from service.errors import HoldfastError, certificate_problem
from service.postgres.engine import WrongTables, pool_of
from service.postgres.pool import TOO_MANY
from service.queries import overview
from service.queue.arq_queue import reason_of, try_write
from service.resources import Resources
from service.storage import objects

SECONDS = 3.0
# `overview.ping` has a budget of its own, and its error names the reason: let it end first.
_GRACE_SECONDS = 1.0
POSTGRES_ADVICE = (
    "check DATABASE_URL, and that Postgres runs and accepts this host;"
    " meanwhile webhooks are answered with 503, and Zendesk sends them again"
)
REDIS_ADVICE = (
    "check REDIS_URL, and that Redis runs and accepts this host;"
    " meanwhile e-mails are accepted and processed, a little later"
)
STORAGE_ADVICE = (
    "check STORAGE_URL, its credentials and their rights;"
    " meanwhile e-mails are accepted, and their attachments wait"
)
COLLECTION_ADVICE = (
    "check SYNC_URL, that MongoDB runs and accepts this host, and that its user may read and write there"
    " (the role readWrite of that database); meanwhile e-mails are processed, and their syncs wait"
)
ENDPOINT_ADVICE = (
    "check the https address in SYNC_URL, and that its server runs and accepts this host;"
    " meanwhile e-mails are processed, and their syncs wait"
)
_TARGETS = {
    "mongodb": ("Sync to MongoDB", COLLECTION_ADVICE),
    "webhook": ("Sync to a webhook", ENDPOINT_ADVICE),
}


@dataclass(frozen=True, slots=True)
class Dependency:
    """A server that Holdfast uses; `ping` is None if a ping would leave something there."""

    name: str  # in /readyz
    title: str  # on the dashboard
    advice: str
    ping: Callable[[], Awaitable[object]] | None
    seconds: float = SECONDS
    is_needed: bool = True  # for intake and capture; a target is not


@dataclass(frozen=True, slots=True)
class Ping:
    """The result of a ping; a `warning` tells that a dependency answers, but not as it should."""

    dependency: Dependency
    milliseconds: float
    error: Exception | None = None
    warning: str = ""

    def for_operators(self) -> Check:
        dependency, error = self.dependency, self.error
        if isinstance(error, HoldfastError) and error.code == TOO_MANY:
            return Check(dependency.title, False, error.code, error.message)
        if error:
            return failed(dependency.title, error, dependency.advice, dependency.seconds)
        return Check(
            dependency.title, None if self.warning else True, f"{self.milliseconds} ms", self.warning
        )

    def for_strangers(self) -> dict[str, object]:
        """Return the entry in `/readyz`. Anyone can read it, so it has the code of an error and not the message."""
        error, detail = self.error, self.warning
        if error is None:
            return {"ok": True, "milliseconds": self.milliseconds, **({"detail": detail} if detail else {})}
        if not isinstance(error, HoldfastError):
            return {"ok": False, "error": reason_of(error)}
        is_about_tables = isinstance(error, WrongTables)
        reason = error.message if certificate_problem(error) else error.code
        return {
            "ok": False,
            "error": reason,
            **({"detail": error.message} if error.code == TOO_MANY or is_about_tables else {}),
        }


def dependencies(res: Resources, target_seconds: float = SECONDS) -> Sequence[Dependency]:
    """List the dependencies of this installation, except Zendesk, whose API counts requests."""
    targets = [(target, *_TARGETS[target.name]) for target in res.targets]
    return [
        Dependency(
            "database",
            "Postgres",
            POSTGRES_ADVICE,
            lambda: overview.ping(res.engine),
            SECONDS + _GRACE_SECONDS,
        ),
        Dependency("redis", "Redis", REDIS_ADVICE, lambda: try_write(res.redis)),
        Dependency("storage", "Storage", STORAGE_ADVICE, lambda: objects.check(res.storage)),
        *(
            Dependency(
                target.name,
                title,
                advice,
                target.check if target.can_be_tried else None,
                target_seconds,
                False,
            )
            for target, title, advice in targets
        ),
    ]


async def ping_all(res: Resources, target_seconds: float) -> Sequence[Ping]:
    """Ping all dependencies that can be, each within its budget. Raises nothing."""
    tried = [each for each in dependencies(res, target_seconds) if each.ping]
    pings = await asyncio.gather(*map(ping, tried))
    pool = pool_of(res.engine)
    # Queries work with the connections of this process, but Postgres refuses it another one.
    warning = pool.error().message if pool.was_refused else ""
    return [replace(pings[0], warning="" if pings[0].error else warning), *pings[1:]]


async def ping(dependency: Dependency) -> Ping:
    """Ping one dependency within its budget. Raises nothing."""
    began = time.monotonic()
    error: Exception | None = None
    try:
        async with asyncio.timeout(dependency.seconds):
            if dependency.ping:
                await dependency.ping()
    except Exception as exc:  # noqa: BLE001 any error is a result
        error = exc
    return Ping(dependency, round(1000 * (time.monotonic() - began), 1), error)


async def check_dependencies(res: Resources) -> Sequence[Check]:
    """Check all dependencies but Zendesk, for the dashboard. Raises nothing."""
    untried = [each.title for each in dependencies(res) if each.ping is None]
    return [
        *(ping.for_operators() for ping in await ping_all(res, SECONDS)),
        *(Check(title, None, "not tried: a test message would stay there") for title in untried),
    ]


async def check_credentials(res: Resources) -> Check:
    """Check Zendesk's credentials, for the dashboard. Raises nothing."""
    return replace(await check_zendesk(res), name="Zendesk")
