"""Check the targets of the sync, and the syncs that wait or failed."""

from service.checks.dependencies import COLLECTION_ADVICE, ENDPOINT_ADVICE
from service.checks.probe import SECONDS, Check, probe
from service.formatting import duration, number
from service.postgres.engine import within
from service.queries import overview
from service.resources import Resources
from service.targets.target import collection_of, endpoint_of
from service.targets.webhook import Endpoint


async def check_targets(res: Resources) -> list[Check]:
    """Check whether each target answers, and accepts writes if trying leaves nothing there. Raises nothing."""
    checks = []
    if collection_of(res.targets):
        checks.append(await probe("sync to mongodb", lambda: _check_collection(res), COLLECTION_ADVICE))
    if endpoint := endpoint_of(res.targets):
        checks.append(await probe("sync to a webhook", lambda: _check_endpoint(endpoint), ENDPOINT_ADVICE))
    return checks


async def check_syncs(res: Resources) -> Check:
    stats = await within(SECONDS, overview.stats(res.engine))
    failed, age = stats.open_sync_failed, stats.oldest_sync_seconds
    if failed:
        found = f"{number(failed, 'open_sync_failed' in stats.capped)} could not be synced"
        advice = "`holdfast emails list --sync-status failed` shows why; then `holdfast emails sync --all`, or dismiss them"
        return Check("syncs", None, found, advice)
    if age is not None and age > res.settings.alert_waiting_seconds:
        advice = "check the target, and `sync_ended` in the log of a worker"
        return Check("syncs", None, f"a finished e-mail has waited {duration(age)}", advice)
    return Check("syncs", True, "none waits for long, none failed")


async def _check_collection(res: Resources) -> Check:
    collection = collection_of(res.targets)
    assert collection  # noqa: S101 the caller checked
    await collection.check()
    await collection.try_to_write()
    return Check("sync to mongodb", True, "answers, and accepts reads and writes")


async def _check_endpoint(endpoint: Endpoint) -> Check:
    await endpoint.reach()
    return Check("sync to a webhook", True, "its server answers; no test message was posted: it would stay")
