"""Holds: orders by name that nothing they cover may be deleted.

A hold covers the e-mails that it lists, and all that match its filter, now and later. Its filter has only facts that last:
an e-mail must not leave a hold because a retry succeeded. Where a fact is unknown, or has two versions, any of them counts:
a hold may cover too much, and never too little.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import (
    BigInteger,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from service.errors import Rejected
from service.formatting import one_line
from service.jobs.retries import record_act
from service.postgres.email_tables import IncomingEmail
from service.postgres.engine import connect, transaction
from service.postgres.held_emails import take_custody
from service.postgres.hold_tables import HeldEmail, Hold
from service.postgres.message_tables import MergedEmail
from service.postgres.selection import LastingFilter, cleaned_reason
from service.resources import Resources

NAME_RULE = "A name has 1 to 64 lower-case letters, digits, dots, hyphens and underscores, and begins with a letter or digit."
NAME = re.compile("[a-z0-9][a-z0-9._-]{0,63}")
MOST_LISTED = 1_000  # e-mails of one hold
_ID = BigInteger()

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HoldOrder:
    """A hold to be set. Without a filter it covers the listed e-mails only; an empty filter covers everything."""

    name: str
    reason: str
    filter: LastingFilter | None = None
    email_ids: Sequence[int] = ()


async def set_hold(res: Resources, wanted: HoldOrder, actor: str) -> int:
    """Set a hold; return its id. It waits for deletions that have begun.

    Raises Rejected for a name of wrong form (422), for an order that covers nothing, an empty reason, or a name that a hold
    has or had (409), and for a listed e-mail that does not exist (404).
    """
    if not NAME.fullmatch(wanted.name):
        raise Rejected(422, "hold_name", NAME_RULE)
    if wanted.filter is None and not wanted.email_ids:
        raise Rejected(409, "hold_empty", "Give a filter, or list e-mails: this hold would cover nothing.")
    reason = cleaned_reason(wanted.reason)
    async with connect(res.engine) as conn, transaction(conn):
        await take_custody(conn)
        email_ids = await _existing(conn, wanted.email_ids)
        hold_id = await conn.scalar(_insert(wanted, reason, actor))
        if hold_id is None:
            raise Rejected(409, "hold_exists", f"There is or was a hold {wanted.name}. Choose another name.")
        if email_ids:
            listed = [{"hold_id": hold_id, "email_id": email_id} for email_id in email_ids]
            await conn.execute(insert(HeldEmail), listed)
        await record_act(conn, actor, "set_hold", subject=wanted.name, reason=reason)
    log.info("hold_set", hold=hold_id, listed=len(email_ids), has_filter=wanted.filter is not None)
    return int(hold_id)


async def release_hold(res: Resources, name: str, actor: str, reason: str) -> None:
    """Release a hold: from now on it covers nothing.

    Raises Rejected if there is no such hold (404), if it is released, or if the reason is empty (409).
    """
    if not NAME.fullmatch(name):
        raise no_hold(name)
    reason = cleaned_reason(reason)
    values = {"released_at": func.now(), "released_by": actor, "release_reason": reason}
    released = update(Hold).where(Hold.name == name, Hold.released_at.is_(None)).values(values)
    async with connect(res.engine) as conn, transaction(conn):
        hold_id = await conn.scalar(released.returning(Hold.id))
        if hold_id is None:
            if await conn.scalar(select(Hold.id).where(Hold.name == name)) is None:
                raise no_hold(name)
            raise Rejected(409, "hold_released", f"Hold {name} is released already.")
        await record_act(conn, actor, "release_hold", subject=name, reason=reason)
    log.info("hold_released", hold=hold_id)


def no_hold(name: str) -> Rejected:
    return Rejected(404, "hold_not_found", f"There is no hold {one_line(name, 64)}.")


def _insert(wanted: HoldOrder, reason: str, actor: str) -> ReturningInsert[int]:
    given = wanted.filter
    values = {
        "name": wanted.name,
        "reason": reason,
        "filter": None if given is None else given.model_dump(mode="json", exclude_none=True),
        "set_by": actor,
    }
    new = postgresql.insert(Hold).values(values).on_conflict_do_nothing(index_elements=["name"])
    return new.returning(Hold.id)


async def _existing(conn: AsyncConnection, email_ids: Sequence[int]) -> list[int]:
    """Return the ids once each; raises Rejected (404) for one that was never an e-mail, or was deleted."""
    given = (
        func.unnest(literal(sorted({*email_ids}), ARRAY(_ID)))
        .table_valued("id", name="given")
        .render_derived()
    )
    is_there = or_(
        exists().where(IncomingEmail.id == given.c.id), exists().where(MergedEmail.id == given.c.id)
    )
    missing = select(given.c.id).where(~is_there).order_by(given.c.id).limit(1)
    if (email_id := await conn.scalar(missing)) is not None:
        raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
    return sorted({*email_ids})
