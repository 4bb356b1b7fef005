"""Repair one difference that a reconciliation found, by a sync or a refetch; nothing is removed."""

from typing import Any

import structlog
from sqlalchemy import BigInteger, Row, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.jobs.refetch import reopen
from service.operate.retry import retry
from service.postgres.reconciliation_tables import OPEN_FINDING
from service.reconcile import record
from service.resources import Resources

# The kinds that one e-mail's sync repairs, and the one that a refetch repairs. Others need a removal, which a run
# with `--fix` does after saving a copy.
SYNCED = ("missing", "different", "not_sent")
REFETCHED = ("object_missing",)

log = structlog.get_logger()


async def repair_finding(res: Resources, finding_id: int, actor: str) -> None:
    """Begin the repair of an open difference, and record it; dismissed ones can be repaired, too.

    Raises Rejected if there is no such finding (404), or if it is not open, cannot be repaired alone, or its e-mail is
    in work (409).
    """
    found = await res.run(lambda conn: _load(conn, finding_id))
    if found is None:
        raise Rejected(404, "finding_not_found", f"There is no finding {finding_id}.")
    if not found.is_open:
        raise Rejected(409, "not_open", f"Finding {finding_id} is no open difference.")
    if found.kind in SYNCED and found.email_id is not None:
        await retry(res, found.email_id, actor, "sync")
        repair = "synced again"
    elif found.kind in REFETCHED and found.sha256 is not None:
        await _refetch(res, found, actor)
        repair = "fetched again"
    else:
        how = "a run with --fix repairs it: `holdfast reconcile --fix`, or `holdfast storage verify --fix`"
        raise Rejected(409, "not_repairable", f"Finding {finding_id} cannot be repaired alone; {how}.")
    await res.run(lambda conn: record.record_repair(conn, found.reconciliation_id, found.key, repair))
    log.info("finding_repaired", finding=finding_id, kind=found.kind, email=found.email_id)


async def _refetch(res: Resources, found: Row[Any], actor: str) -> None:
    opened, jobs = await res.run(lambda conn: reopen(conn, found.sha256, actor))
    if not opened:
        raise Rejected(
            409, "not_finished", f"E-mail {found.email_id} is in work, or has no such file any more."
        )
    for job in jobs:
        res.dispatcher.dispatch(job)


async def _load(conn: AsyncConnection, finding_id: int) -> Row[Any] | None:
    return (await conn.execute(_FINDING, {"id": finding_id})).one_or_none()


_FINDING = text(f"""
SELECT kind, key, email_id, reconciliation_id, {OPEN_FINDING} AS is_open, (
    SELECT sha256 FROM attachments WHERE attachments.email_id = finding.email_id AND object_key = finding.key
    UNION ALL
    SELECT record_sha256 FROM messages WHERE messages.email_id = finding.email_id AND record_key = finding.key
    UNION ALL
    SELECT original_sha256 FROM messages WHERE messages.email_id = finding.email_id AND original_key = finding.key
    LIMIT 1
) AS sha256
FROM reconciliation_findings AS finding WHERE id = :id
""").bindparams(bindparam("id", type_=BigInteger()))  # noqa: S608 words of ours
