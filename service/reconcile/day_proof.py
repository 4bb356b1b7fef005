"""The daily proof: each day's tickets by Zendesk's own search, which shares no step with the searches of back-fill."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, date, timedelta
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Integer, Interval, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent, Transient
from service.postgres.listed import WITHOUT_EMAIL, keys_of, statement
from service.postgres.source_tables import searched_until
from service.resources import Resources, repeat_steps
from service.zendesk.rate_limit import key_of
from service.zendesk.ticket_search import SEARCH, cursor_of, query_of, read_found

LOOK_SECONDS = 60.0
# Each call renews the lease; after that another worker begins the proof again.
LEASE = timedelta(minutes=10)
# Between two pages: Zendesk allows 100 calls of this search a minute to all programs of an account.
PAGE_SECONDS = 1.0
# The share of the budget of calls that is left to the searches and to captures.
RESERVE = 0.5
# A pause that the budget or Zendesk asks for, where it names none; the longest one, within the lease; and all pauses
# before a page, since its cursor is valid for an hour.
PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = LEASE / 2
MOST_WAIT = timedelta(minutes=50)
# Zendesk's search knows a ticket some minutes after it was made.
AFTER = timedelta(hours=1)
MOST_PAGES = 200
MOST_KEPT = 100  # tickets without an e-mail

log = structlog.get_logger()


class ProofClaim(NamedTuple):
    """The day that a worker proves, the fencing token, and the result of the proof before."""

    account: str
    account_id: str | None
    day: date
    today: date
    number: int
    without: Sequence[str]  # tickets that had no e-mail
    uncounted: int  # further ones, which the proof did not keep


async def prove_for_ever(res: Resources) -> None:
    """Prove each day once it is over, until cancelled."""
    await repeat_steps(lambda: prove(res), soon=LOOK_SECONDS, idle=LOOK_SECONDS, event="proof_failed")


async def prove(res: Resources) -> bool:
    """Prove the next day if that is due; return whether it was.

    Each ticket that an e-mail opened on that day has an e-mail here. Days are proved in their order, so a missed one is
    proved later. A day is due an hour after its end, if all of it was searched. One that Zendesk refuses, or that has
    more tickets without an e-mail than are kept, is proved again on the next day. Raises Transient; then it is due again
    after the lease.
    """
    if not (res.zendesk.has_login and res.settings.backfill_minutes):
        return False
    claim = await _claim(res)
    if claim is None:
        return False
    earlier = await res.run(lambda conn: _without_email(conn, claim, claim.without))
    try:
        found = await _search(res, claim, earlier)
    except Permanent as exc:
        count = len(earlier) + claim.uncounted
        found = {"error_code": exc.code, "without_count": count, "without": list(earlier)}
    proof = {
        "day": claim.day.isoformat(),
        "asked_on": claim.today.isoformat(),
        "number": claim.number,
        **found,
    }
    settled = {"account": claim.account, "number": claim.number, "found": json.dumps(proof)}
    await res.insist(lambda conn: conn.execute(_SETTLE, settled))
    about = {name: value for name, value in found.items() if name != "without"}
    (log.warning if found["without_count"] or "error_code" in found else log.info)("day_proved", **about)
    return True


async def _claim(res: Resources) -> ProofClaim | None:
    account = key_of(res.account.url) if res.account.url else ""
    given: dict[str, object] = {"account": account, "lease": LEASE, "after": AFTER}
    row = (await res.run(lambda conn: conn.execute(_CLAIM, given))).one_or_none()
    if row is None:
        return None
    before = row.search if isinstance(row.search, Mapping) else {}
    without = [str(ticket) for ticket in before.get("without") or ()][:MOST_KEPT]
    uncounted = max(0, int(before.get("without_count") or 0) - len(without))
    return ProofClaim(account, row.account_id, row.day, row.today, row.number, without, uncounted)


async def _search(res: Resources, claim: ProofClaim, earlier: Sequence[str]) -> dict[str, Any]:
    """Ask Zendesk for the tickets of a day; add those without an e-mail here to the earlier ones."""
    by_email = calls = 0
    without = dict.fromkeys(earlier)
    cursor = None
    async for page in _pages(res, claim):
        calls += 1
        cursor = cursor_of(page)
        opened = [
            ticket.ticket_id
            for ticket in read_found(page)
            if ticket.is_by_email and ticket.created_at.astimezone(UTC).date() == claim.day
        ]
        by_email += len(opened)
        without |= dict.fromkeys(
            await res.run(lambda conn, opened=opened: _without_email(conn, claim, opened))  # type: ignore[misc]
        )
    return {
        "tickets": by_email,
        "without_count": len(without),
        # The earlier ones first: the search of this day does not find them again.
        "without": list(without)[:MOST_KEPT],
        "calls": calls,
        "capped": cursor is not None,
    }


async def _pages(res: Resources, claim: ProofClaim) -> AsyncIterator[Mapping[str, object]]:
    """Yield the pages of a day, at most MOST_PAGES; a rate limit puts a page off, and loses no earlier one."""
    cursor = None
    for place in range(MOST_PAGES):
        if place:
            await asyncio.sleep(PAGE_SECONDS)
        page = await _page(res, claim, query_of(claim.day, cursor))
        yield page
        if (cursor := cursor_of(page)) is None:
            return


async def _page(res: Resources, claim: ProofClaim, query: Mapping[str, str]) -> Mapping[str, object]:
    """Ask for a page; wait while the budget of calls is used up."""
    waited = timedelta()
    while True:
        await _renew(res, claim)
        try:
            return await res.zendesk.get(SEARCH, query, reserve=RESERVE)
        except Transient as exc:
            if exc.code != "rate_limited" or waited >= MOST_WAIT:
                raise
            pause = min(exc.retry_after or PAUSE, LONGEST_PAUSE)
        waited += pause
        await asyncio.sleep(pause.total_seconds())


async def _renew(res: Resources, claim: ProofClaim) -> None:
    """Renew the lease; raise Transient if another worker has the proof."""
    given: dict[str, object] = {"account": claim.account, "number": claim.number, "lease": LEASE}
    if not await res.run(lambda conn: conn.scalar(_RENEW, given)):
        raise Transient("lease_lost", "Another worker proves this day.")


async def _without_email(conn: AsyncConnection, claim: ProofClaim, tickets: Sequence[str]) -> Sequence[str]:
    given = {"keys": keys_of(claim.account_id), "tickets": list(tickets)}
    return (await conn.scalars(_WITHOUT_EMAIL, given)).all()


# In UTC, whatever the time zone of the session is.
_TODAY = "(now() AT TIME ZONE 'UTC')::date"
_START = "(({day})::timestamp AT TIME ZONE 'UTC')"
_SEARCH = "proof -> 'search'"
# The proof has no error, and keeps all tickets that it counted.
_IS_WHOLE = f"""(
    {_SEARCH} ->> 'error_code' IS NULL
    AND coalesce(({_SEARCH} ->> 'without_count')::int, 0) <= coalesce(json_array_length({_SEARCH} -> 'without'), 0)
)"""
# The first proof is of yesterday, and no day is proved that began before the account was searched.
_NEXT = f"""greatest(
    coalesce(({_SEARCH} ->> 'day')::date + CASE WHEN {_IS_WHOLE} THEN 1 ELSE 0 END, {_TODAY} - 1),
    (complete_since AT TIME ZONE 'UTC' + interval '24 hours' - interval '1 microsecond')::date
)"""
_CLAIM = text(f"""
UPDATE sources SET proof = jsonb_set(
    proof::jsonb, '{{search}}',
    coalesce(proof::jsonb -> 'search', '{{}}') || jsonb_build_object(
        'until', now() + :lease, 'number', coalesce(({_SEARCH} ->> 'number')::int, 0) + 1
    )
)::json
WHERE account = :account AND proof_day = {_START.format(day=_TODAY)}
AND now() >= {_START.format(day=_TODAY)} + :after
AND complete_since IS NOT NULL AND {_NEXT} < {_TODAY} AND {searched_until()} >= {_START.format(day=f"{_NEXT} + 1")}
AND ({_IS_WHOLE} OR coalesce(({_SEARCH} ->> 'asked_on')::date, '-infinity') < {_TODAY})
AND coalesce(({_SEARCH} ->> 'until')::timestamptz, '-infinity') < now()
RETURNING account_id, {_NEXT} AS day, {_TODAY} AS today, ({_SEARCH} ->> 'number')::int AS number, {_SEARCH} AS search
""").bindparams(  # noqa: S608 words of ours
    bindparam("lease", type_=Interval()),
    bindparam("after", type_=Interval()),
    bindparam("account", type_=Text()),
)
_RENEW = text("""
UPDATE sources SET proof = jsonb_set(proof::jsonb, '{search,until}', to_jsonb(now() + :lease))::json
WHERE account = :account AND (proof -> 'search' ->> 'number')::int = :number
RETURNING 1
""").bindparams(
    bindparam("lease", type_=Interval()),
    bindparam("account", type_=Text()),
    bindparam("number", type_=Integer()),
)
_SETTLE = text("""
UPDATE sources SET proof = jsonb_set(proof::jsonb, '{search}', CAST(:found AS jsonb))::json
WHERE account = :account AND (proof -> 'search' ->> 'number')::int = :number
""").bindparams(
    bindparam("found", type_=Text()), bindparam("account", type_=Text()), bindparam("number", type_=Integer())
)
_WITHOUT_EMAIL = statement(f"SELECT ticket.id {WITHOUT_EMAIL}")
