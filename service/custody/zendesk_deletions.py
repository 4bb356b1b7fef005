"""What follows when Zendesk deletes an e-mail for good: a person decides, it is erased here, too, or it is held.

Zendesk keeps a deleted ticket for 30 days, in which it may be restored. Until then nothing is erased.
"""

import structlog
from sqlalchemy import Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody import erasure
from service.custody.scopes import DELETED_IN_ZENDESK, emails_in
from service.errors import Rejected
from service.postgres.engine import connect, transaction
from service.postgres.held_emails import holds_on, take_custody
from service.resources import Resources, repeat_steps

HOLD = "zendesk-deletions"
ACTOR = "zendesk"
# E-mails that one step holds, or looks at.
SOME = 500
SOON_SECONDS, IDLE_SECONDS = 1.0, 300.0
_ALL = 2**62

log = structlog.get_logger()


async def follow(res: Resources) -> bool:
    """Take one step of what ZENDESK_DELETIONS asks for; return whether there may be more to do."""
    if res.settings.zendesk_deletions == "hold":
        held = await res.run(_hold_some)
        if held:
            log.info("deleted_emails_held", emails=held)
        return held == SOME
    if res.settings.zendesk_deletions == "erase" and await _is_due(res):
        try:
            await erasure.start(res, DELETED_IN_ZENDESK, "It was deleted in Zendesk.", ACTOR)
        except Rejected:  # another worker was first
            return False
    return False


async def follow_for_ever(res: Resources) -> None:
    """Follow Zendesk's deletions, until cancelled."""
    await repeat_steps(
        lambda: follow(res), soon=SOON_SECONDS, idle=IDLE_SECONDS, event="deletions_not_followed"
    )


async def _hold_some(conn: AsyncConnection) -> int:
    """Hold e-mails that Zendesk deleted or redacted; a hold that a person released stays released."""
    async with transaction(conn):
        if not await conn.scalar(_ANY_TO_HOLD, {"name": HOLD}):
            return 0
        await take_custody(conn)
        await conn.execute(_SET, {"name": HOLD, "actor": ACTOR})
        return (await conn.execute(_HOLD, {"name": HOLD, "limit": SOME})).rowcount


async def _is_due(res: Resources) -> bool:
    """Say whether some e-mail was deleted in Zendesk for good, is not held, and no such erasure is running."""
    async with connect(res.engine) as conn:
        if await conn.scalar(_RUNNING):
            return False
        after = 0
        while page := await emails_in(conn, DELETED_IN_ZENDESK, after, _ALL, SOME):
            after = page[-1]
            if len(await holds_on(conn, page)) < len(page):
                return True
    return False


_NAME = bindparam("name", type_=Text())
_TO_HOLD = """
FROM incoming_emails WHERE zendesk_state IN ('deleted', 'permanently_deleted', 'redacted') AND NOT EXISTS (
    SELECT FROM held_emails JOIN holds ON holds.id = hold_id WHERE name = :name AND email_id = incoming_emails.id
)
"""
_IS_RELEASED = "EXISTS (SELECT FROM holds WHERE name = :name AND released_at IS NOT NULL)"
_ANY_TO_HOLD = text(f"SELECT NOT {_IS_RELEASED} AND EXISTS (SELECT {_TO_HOLD})").bindparams(_NAME)
_SET = text("""
INSERT INTO holds (name, reason, set_by) VALUES (:name, 'Zendesk deleted or redacted it: ZENDESK_DELETIONS=hold.', :actor)
ON CONFLICT DO NOTHING
""").bindparams(_NAME, bindparam("actor", type_=Text()))
_HOLD = text(f"""
INSERT INTO held_emails (hold_id, email_id)
SELECT (SELECT id FROM holds WHERE name = :name), incoming_emails.id {_TO_HOLD} ORDER BY incoming_emails.id LIMIT :limit
""").bindparams(_NAME)  # noqa: S608 words of ours
_RUNNING = text("SELECT count(*) FROM erasures WHERE scope = 'zendesk' AND status = 'running'")
