"""Look at the targets of the sync: whether they let us in and let us write, and what has not come there."""

from service.checks.finding import SECONDS, Check, probe
from service.formatting import duration, number
from service.postgres.engine import within
from service.queries import overview
from service.resources import Resources
from service.targets.target import collection_of, endpoint_of
from service.targets.webhook import Endpoint

_COLLECTION = (
    "check SYNC_URL, that it runs, that this host may reach it, and that its user may read and write there"
    " (the role readWrite of that database); e-mails are worked on meanwhile, and wait for it"
)
_ENDPOINT = (
    "check the https address in SYNC_URL, that it runs, and that this host may reach it; e-mails wait for it"
)
_TABLES = "run `holdfast migrate`, if Postgres is there: it may have no such columns"


async def check_sync(res: Resources) -> list[Check]:
    """Look at each target, and at what waits for them. Raises nothing."""
    if not res.targets:
        return [Check("sync", True, "SYNC_URL is not set: finished e-mails are carried nowhere")]
    return [*await check_targets(res), await probe("syncs", lambda: _syncs(res), _TABLES)]


async def check_targets(res: Resources) -> list[Check]:
    """Look whether each target answers, and lets us write where that leaves nothing there. Raises nothing."""
    checks = []
    if collection_of(res.targets):
        checks.append(await probe("sync to mongodb", lambda: _collection(res), _COLLECTION))
    if endpoint := endpoint_of(res.targets):
        checks.append(await probe("sync to a webhook", lambda: _reach(endpoint), _ENDPOINT))
    return checks


async def _collection(res: Resources) -> Check:
    collection = collection_of(res.targets)
    assert collection  # noqa: S101 who calls it looked
    await collection.check()
    await collection.try_to_write()
    return Check("sync to mongodb", True, "answers, and lets us read and write")


async def _reach(endpoint: Endpoint) -> Check:
    await endpoint.reach()
    return Check(
        "sync to a webhook", True, "its server answers; nothing was posted, as that would stay there"
    )


async def _syncs(res: Resources) -> Check:
    stats = await within(SECONDS, overview.stats(res.engine))
    failed, age = stats.by_sync_status["failed"], stats.oldest_sync_seconds
    if failed:
        found = f"{number(failed, 'sync_failed' in stats.capped)} could not be synced"
        advice = "`holdfast emails list --sync-status failed` says why; then `holdfast emails sync --all`"
        return Check("syncs", None, found, advice)
    if age is not None and age > res.settings.alert_waiting_seconds:
        advice = "look at the target, and at `sync_ended` in the log of a worker"
        return Check("syncs", None, f"a finished e-mail has waited {duration(age)}", advice)
    return Check("syncs", True, "none waits for long, none failed")
