"""Carry an e-mail over once more, because a person wants it; its job is not run again."""

import structlog

from service.errors import Rejected
from service.jobs import sync_retries
from service.postgres.engine import connect
from service.resources import Resources

log = structlog.get_logger()


async def resync(res: Resources, email_id: int, actor: str) -> None:
    """Sync a finished e-mail now, with a fresh budget.

    Raises Rejected if there is no such e-mail (404), it is not finished (409), or there is no target (409).
    """
    if not res.settings.sync_url:
        raise Rejected(409, "sync_off", "There is nothing to sync with: SYNC_URL is not set.")
    async with connect(res.engine) as conn:
        begun = await sync_retries.again(conn, email_id, actor)
        status = None if begun else await sync_retries.job_status(conn, email_id)
    if begun:
        res.dispatcher.ring(begun)
        log.info("email_resynced", email=email_id)
    elif status is None:
        raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
    else:
        raise Rejected(409, "not_finished", f"E-mail {email_id} is {status}: it is synced when that is over.")
