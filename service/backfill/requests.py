"""Searches that a person wants: the current one now, or one of a range of time; and how far they are."""

from datetime import UTC, datetime
from functools import partial

import structlog

from service.backfill import record
from service.backfill.record import History, RunState
from service.backfill.run import account_of
from service.errors import Rejected, refuse_future
from service.resources import Resources

# Zendesk has nothing older; its export counts seconds from here on.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

log = structlog.get_logger()


async def begin(res: Resources, wanted: History | None, actor: str) -> int:
    """Begin a search, or go on with an open one of the same range; return the id of the run.

    Without a range, it is the current one. Raises Rejected (409) without credentials for Zendesk, or (400) for a
    range in the future.
    """
    refuse_future(wanted and wanted.since)
    if wanted is not None and wanted.since is not None:
        wanted = wanted._replace(since=max(wanted.since, EARLIEST))
    if not res.zendesk.has_login:
        how = "set ZENDESK_SUBDOMAIN, ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET"
        raise Rejected(409, "credentials_missing", f"Zendesk cannot be asked: {how}.")
    account = account_of(res)
    if wanted is None:
        run_id = await res.insist(partial(record.request, account=account, actor=actor))
    else:
        begun = partial(record.request_history, account=account, wanted=wanted, actor=actor)
        run_id = await res.insist(begun)
    log.info("backfill_requested", run=run_id, history=wanted is not None, actor=actor)
    return run_id


async def state_of(res: Resources, run_id: int) -> RunState:
    """Return how far a run is."""
    return await res.insist(partial(record.state_of, run_id=run_id))
