"""Run an e-mail again, because a person wants it."""

import structlog

from service.errors import Rejected
from service.jobs import retries
from service.postgres.engine import connect
from service.resources import Resources

log = structlog.get_logger()


async def retry(res: Resources, email_id: int, actor: str) -> None:
    """Run a finished job again with a fresh budget; what is stored is not fetched again.

    Raises Rejected if there is no such e-mail (404) or its job is not finished (409).
    """
    async with connect(res.engine) as conn:
        job = await retries.retry(conn, email_id, actor)
        status = None if job else await retries.status_of(conn, email_id)
    if job:
        res.dispatcher.ring(job)
        log.info("email_retried", email=email_id)
    elif status is None:
        raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
    else:
        raise Rejected(409, "not_finished", f"E-mail {email_id} is {status}: it will be worked on anyway.")
