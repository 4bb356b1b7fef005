"""Acknowledge a group of failures: a person looks after it, and says how."""

import structlog
from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.jobs.retries import record_act
from service.postgres.engine import transaction
from service.postgres.operation_tables import Acknowledgement
from service.postgres.selection import cleaned_reason
from service.resources import Resources

log = structlog.get_logger()


async def acknowledge(res: Resources, group: tuple[str, str], actor: str, note: str) -> None:
    """Note who looks after the failures with a code and a host; the newest note counts.

    It changes no verdict and no alert, and ends for e-mails that fail later: a group shows how many came since.
    Raises Rejected for an empty note (409), or one that is too long (422).
    """
    note = cleaned_reason(note)
    error_code, host = group
    values = {"at": func.now(), "by": actor, "note": note}

    async def store(conn: AsyncConnection) -> None:
        new = insert(Acknowledgement).values(error_code=error_code, host=host, **values)
        async with transaction(conn):
            await conn.execute(new.on_conflict_do_update(index_elements=["error_code", "host"], set_=values))
            await record_act(conn, actor, "acknowledge", reason=note)

    await res.run(store)
    log.info("failures_acknowledged", code=error_code)


async def unacknowledge(res: Resources, group: tuple[str, str], actor: str) -> None:
    """Remove the note of a group; raises Rejected if there is none (404)."""
    error_code, host = group
    row = Acknowledgement

    async def remove(conn: AsyncConnection) -> None:
        gone = delete(row).where(row.error_code == error_code, row.host == host).returning(row.note)
        async with transaction(conn):
            if (note := await conn.scalar(gone)) is None:
                raise Rejected(404, "not_acknowledged", "Nobody has acknowledged this group.")
            await record_act(conn, actor, "unacknowledge", reason=note)

    await res.run(remove)
