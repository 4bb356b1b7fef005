"""Retention: which finished e-mails are due for deletion, by the first rule that matches.

Without a rule everything is kept for ever. An e-mail without the end of its job, without a time of receipt, or whose sync is
not settled, is never due. What needs attention is due only by a rule that says so.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Integer,
    Select,
    Subquery,
    and_,
    any_,
    case,
    func,
    literal,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody.retention_rules import Rule, load_binding_rules
from service.postgres.email_tables import (
    FINISHED,
    OPEN_FAILED,
    OPEN_NOT_CAPTURED,
    OPEN_NOT_SYNCED,
    IncomingEmail,
    in_status,
)
from service.postgres.held_emails import holds_on, share_custody
from service.postgres.rows import in_batches
from service.postgres.search import inline_number, matches

# The rows that one statement examines.
EXAMINED = 5_000
# Null where there is no error code.
_NEEDS_ATTENTION = f"coalesce(({OPEN_FAILED}) OR ({OPEN_NOT_SYNCED}) OR ({OPEN_NOT_CAPTURED}), false)"
_COLUMNS = IncomingEmail.__table__.c[
    "id",
    "zendesk_ticket_id",
    "from_email",
    "received_at",
    "completed_at",
    "processing_status",
    "sync_status",
    "error_code",
    "attempt_number",
    "dismissed_attempt",
    "sync_attempt_number",
    "dismissed_sync_attempt",
]


class Due(NamedTuple):
    """An e-mail whose time is over, and the name of the rule that says so."""

    email_id: int
    rule: str


class Decision(NamedTuple):
    """What the rules say of a row: the place of the first rule that matches, and whether it may be deleted at all."""

    place: ColumnElement[int]
    days: ColumnElement[int]  # null: for ever
    is_finished: ColumnElement[bool]
    needs_attention: ColumnElement[bool]  # and the rule spares that
    completed_at: ColumnElement[Any]

    def is_over(self, in_days: int = 0) -> ColumnElement[bool]:
        """Match rows whose time is over, now or in some days."""
        end = func.now() + _days(inline_number(in_days)) - _days(self.days)
        return and_(self.is_finished, func.coalesce(self.completed_at < end, literal_column("false")))


async def due(
    conn: AsyncConnection, after_id: int, limit: int, *, floor_days: int, examined: int = EXAMINED
) -> list[Due]:
    """Return the next e-mails to delete, by id; none if there are no more.

    It reads all e-mails after `after_id` until it has found enough, in statements of their own: call it outside of a
    transaction, for some thousands at once, and `lock_due` inside of each transaction that deletes.
    """
    return (await due_and_held(conn, after_id, limit, floor_days=floor_days, examined=examined))[0]


async def due_and_held(
    conn: AsyncConnection, after_id: int, limit: int, *, floor_days: int, examined: int = EXAMINED
) -> tuple[list[Due], list[int]]:
    """Return the same as `due`, and the ids of held e-mails whose time is over, in order.

    These are the ones before the last e-mail to delete, or all that follow if there are no more to delete.
    """
    rules = await load_binding_rules(conn)
    kept = [rule.keep_days for rule in rules if rule.keep_days is not None]
    if not kept or not await conn.scalar(_any_older_than(max(floor_days, min(kept)))):
        return [], []
    found: list[Due] = []
    held: list[int] = []
    place: int | None = after_id
    while place is not None and len(found) < limit:
        step, place = await _next(conn, rules, floor_days, place, examined)
        for some in in_batches(step, limit):
            if len(found) < limit:
                kept_back = await holds_on(conn, [each.email_id for each in some])
                found += [each for each in some if each.email_id not in kept_back]
                held += sorted(kept_back)
    found = found[:limit]
    is_full = len(found) == limit
    return found, [each for each in held if not is_full or each < found[-1].email_id]


async def lock_due(conn: AsyncConnection, email_ids: Sequence[int], *, floor_days: int) -> list[Due]:
    """Lock those of these e-mails that are due now, and return them; call it in the transaction that deletes.

    Until that ends no hold is set, no rule changes, and none of these e-mails. Rows that others have locked are left out.
    """
    await share_custody(conn)
    wanted = IncomingEmail.id == any_(literal(email_ids, ARRAY(BigInteger)))
    locked = select(IncomingEmail.id).where(wanted).order_by(IncomingEmail.id)
    ids = (await conn.scalars(locked.with_for_update(skip_locked=True))).all()
    rules = await load_binding_rules(conn)
    if not (rules and ids):
        return []
    rows = select(*_COLUMNS).where(IncomingEmail.id == any_(literal(ids, ARRAY(BigInteger))))
    decided = await conn.execute(_decided(rules, rows.subquery("candidates"), floor_days))
    found = _named(rules, decided.one())
    held = await holds_on(conn, [each.email_id for each in found])
    return [each for each in found if each.email_id not in held]


def decide(rules: Sequence[Rule], candidates: Subquery, floor_days: int) -> Decision:
    """Return the decision on each row of a subquery that has the columns of `candidates_after`."""
    row = candidates.c
    conditions = [(and_(true(), *matches(rule.filter.selection, candidates)), rule) for rule in rules]
    places = ((condition, inline_number(place)) for place, (condition, _) in enumerate(conditions))
    days = ((condition, _kept(rule, floor_days)) for condition, rule in conditions)
    spares = (
        (condition, literal_column(str(not rule.includes_failed), Boolean)) for condition, rule in conditions
    )
    settled = and_(
        literal_column(f"({FINISHED})", Boolean), row.sync_status != "pending", row.received_at.is_not(None)
    )
    return Decision(
        place=case(*places),
        days=case(*days),
        is_finished=settled,
        needs_attention=and_(literal_column(_NEEDS_ATTENTION, Boolean), case(*spares, else_=true())),
        completed_at=row.completed_at,
    )


def candidates_after(place: int, examined: int) -> Subquery:
    """Select the next e-mails by id, with the columns that rules look at."""
    rows = select(*_COLUMNS).where(IncomingEmail.id > place).order_by(IncomingEmail.id)
    return rows.limit(inline_number(examined)).subquery("candidates")


def _kept(rule: Rule, floor_days: int) -> ColumnElement[int]:
    if rule.keep_days is None:
        return literal_column("NULL::integer", Integer)
    return inline_number(max(rule.keep_days, floor_days))


def _days(number: ColumnElement[int]) -> ColumnElement[Any]:
    return func.make_interval(0, 0, 0, number)


def _any_older_than(days: int) -> Select[bool]:
    """Ask an index whether there is a finished e-mail that was received so long ago: its job ended later."""
    received_at = IncomingEmail.received_at
    oldest = (
        select(received_at).where(in_status(status)).order_by(received_at).limit(inline_number(1))
        for status in ("completed", "failed")
    )
    return select(
        func.least(*(each.scalar_subquery() for each in oldest)) < func.now() - _days(inline_number(days))
    )


async def _next(
    conn: AsyncConnection, rules: Sequence[Rule], floor_days: int, place: int, examined: int
) -> tuple[list[Due], int | None]:
    """Return the due ones among the next e-mails, and the place to go on after; None at the end."""
    row = (await conn.execute(_decided(rules, candidates_after(place, examined), floor_days))).one()
    return _named(rules, row), row.reached if row.examined == examined else None


def _decided(rules: Sequence[Rule], candidates: Subquery, floor_days: int) -> Select[*tuple[Any, ...]]:
    """Select one row: how many e-mails there are, the last of them, and those that are due with the places of their rules."""
    decision = decide(rules, candidates, floor_days)
    is_due = and_(decision.is_over(), ~decision.needs_attention)
    ids, places = (
        func.array_agg(aggregate_order_by(column, candidates.c.id)).filter(is_due)
        for column in (candidates.c.id, decision.place)
    )
    return select(
        func.count().label("examined"),
        func.max(candidates.c.id).label("reached"),
        ids.label("ids"),
        places.label("places"),
    ).select_from(candidates)


def _named(rules: Sequence[Rule], row: Any) -> list[Due]:  # noqa: ANN401 a row of `_decided`
    return [Due(n, rules[place].name) for n, place in zip(row.ids or (), row.places or (), strict=True)]
