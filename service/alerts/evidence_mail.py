"""Mail the newest head of the evidence log once a day: nobody who changes Postgres and the storage can change that mail."""

import asyncio
import random
from typing import Any

import structlog
from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts import channels
from service.alerts.message import Notice
from service.errors import HoldfastError
from service.evidence.heads import document
from service.resources import Resources

LOOK_SECONDS = 300.0

log = structlog.get_logger()


async def mail_heads_for_ever(res: Resources) -> None:
    """Mail a head whenever a day has passed, until cancelled."""
    while True:
        try:
            await mail_head(res)
        except HoldfastError as exc:
            log.warning("evidence_head_not_mailed", code=exc.code, error=exc.message)
        await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 no secret


async def mail_head(res: Resources) -> bool:
    """Mail the newest head if that is due; return whether it was. Raises Transient or Permanent.

    Another process tries again ten minutes after one that died or failed: a mail may come twice.
    """
    head = await res.run(_claim)
    if head is None:
        return False
    await channels.send(res.settings, "mail", _notice(head))
    await res.insist(lambda conn: conn.execute(_MAILED, {"number": head.number}))
    log.info("evidence_head_mailed", head=head.number)
    return True


async def _claim(conn: AsyncConnection) -> Any:  # noqa: ANN401 a row
    return (await conn.execute(_CLAIM)).one_or_none()


def _notice(head: Any) -> Notice:  # noqa: ANN401 a row
    lines = [
        f"The evidence log has {head.size} facts. Keep this mail: it shows whether somebody changed the log later.",
        f"Root: {head.size}:{head.root.hex()}",
        f"Key: {head.public_key.hex()}",
        "The signed head, as it is in the storage:",
        document(head.body, head.signature).decode(),
    ]
    return Notice(
        id=f"evidence_{head.log_id}_{head.number}",
        kind="evidence.head",
        at=head.at,
        title=f"Head {head.number} of the evidence log",
        text="\n".join(lines),
    )


_CLAIM = text("""
WITH due AS (
    UPDATE evidence_log SET mailed_at = now() - interval '1 day' + interval '10 minutes'
    WHERE id = 1 AND coalesce(mailed_at <= now() - interval '1 day', true) AND head_at IS NOT NULL
    RETURNING log_id
)
SELECT log_id, head.* FROM due CROSS JOIN LATERAL (
    SELECT number, size, root, at, body, signature, public_key FROM evidence_heads ORDER BY number DESC LIMIT 1
) AS head
""")
_MAILED = text("""
WITH noted AS (UPDATE evidence_log SET mailed_at = now() WHERE id = 1)
UPDATE evidence_heads SET mailed_at = now() WHERE number = :number
""").bindparams(bindparam("number", type_=BigInteger()))
