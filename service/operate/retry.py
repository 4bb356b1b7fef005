"""Retry an e-mail: its job, or only its sync."""

import structlog

from service.errors import Rejected
from service.jobs import retries
from service.jobs.retries import FINISHED_STATES
from service.postgres.engine import connect
from service.postgres.selection import What
from service.resources import Resources

_EVENTS = {"job": "email_retried", "sync": "sync_retried"}
_NOT_FINISHED = {"job": "only finished e-mails can be retried", "sync": "it is synced when its job ends"}

log = structlog.get_logger()


async def retry(res: Resources, email_id: int, actor: str, what: What = "job") -> None:
    """Retry the job of a finished e-mail, or its sync, with a fresh budget; stored files are not downloaded again.

    Raises Rejected if there is no such e-mail (404), its job is not finished (409), or there is no target (409).
    """
    if what == "sync":
        check_has_target(res)
    async with connect(res.engine) as conn:
        retried = await retries.retry(conn, [email_id], actor, what)
        status = None if retried else await retries.status_of(conn, email_id)
    if retried:
        res.dispatcher.dispatch(retried[0])
        log.info(_EVENTS[what], email=email_id)
    elif status is None:
        raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
    else:
        raise Rejected(409, "not_finished", f"E-mail {email_id} is {status}: {_NOT_FINISHED[what]}.")


def check_finished(status: str | None) -> None:
    """Raise Rejected (422) for a filter by a status that is not finished; None is any status."""
    if status not in {None, *FINISHED_STATES}:
        raise Rejected(
            422, "not_finished", f"E-mails that are {status} cannot be retried: their jobs run anyway."
        )


def check_has_target(res: Resources) -> None:
    """Raise Rejected (409) where no target is set."""
    if not res.settings.sync_url:
        raise Rejected(409, "sync_off", "SYNC_URL is not set: there is no target to sync to.")
