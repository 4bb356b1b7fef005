"""The daily recount: compare all e-mails that Zendesk lists with those that are here, in steps; a crash costs one step."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import JSON, Boolean, Integer, Interval, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.listed import EMAIL_OF, FRESH, keys_of, statement
from service.resources import Resources, repeat_steps

# Comments of one step, and the pauses between two steps and two looks.
STEP = 2_000
SOON_SECONDS = 0.05
LOOK_SECONDS = 60.0
LEASE = timedelta(seconds=60)
# So many missing ones are kept, and compared again with each look at the ledger.
MOST_KEPT = 1_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RecountClaim:
    """A step of an account's recount: its beginning, and the findings of the steps before it."""

    account: str
    account_id: str | None
    proof: Mapping[str, Any]  # of the last recount that ended, and in `run` this one

    @property
    def run(self) -> Mapping[str, Any]:
        run: Mapping[str, Any] = self.proof["run"]
        return run


async def recount_for_ever(res: Resources) -> None:
    """Run steps as they become due, until cancelled."""
    await repeat_steps(lambda: step(res), soon=SOON_SECONDS, idle=LOOK_SECONDS, event="recount_step_failed")


async def step(res: Resources) -> bool:
    """Run one step if one is due; return whether one was. A day's recount is due once the account was searched."""
    claim = await res.run(_claim)
    if claim is None:
        return False
    run = claim.run
    given = {
        "account": claim.account,
        "keys": keys_of(claim.account_id),
        "after_ticket": run.get("ticket", ""),
        "after_comment": run.get("comment", ""),
    }
    rows = (await res.run(lambda conn: conn.execute(NEXT, given))).all()
    missing = [[row.ticket_id, row.comment_id] for row in rows if row.is_missing]
    found: dict[str, Any] = {
        "compared": run.get("compared", 0) + len(rows),
        "missing_count": run.get("missing_count", 0) + len(missing),
        "missing": [*run.get("missing", ()), *missing][:MOST_KEPT],
    }
    is_end = len(rows) < STEP
    if is_end:
        proof = {name: value for name, value in claim.proof.items() if name == "search"} | found
    else:
        place = {"ticket": rows[-1].ticket_id, "comment": rows[-1].comment_id, "number": run["number"]}
        proof = {**claim.proof, "run": {**found, **place}}
    settled = {
        "account": claim.account,
        "number": run["number"],
        "proof": json.dumps(proof),
        "is_end": is_end,
    }
    if await res.insist(lambda conn: conn.scalar(_SETTLE, settled)) and is_end:
        counts = {"compared": found["compared"], "missing": found["missing_count"]}
        (log.warning if found["missing_count"] else log.info)("recount_done", **counts)
    return True


async def _claim(conn: AsyncConnection) -> RecountClaim | None:
    row = (await conn.execute(_CLAIM, {"lease": LEASE})).one_or_none()
    return RecountClaim(*row) if row else None


# The day in UTC, whatever the time zone of the session is.
_TODAY = "date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
# `number` is the fencing token of a step.
_CLAIM = (
    text(f"""
UPDATE sources SET proof = jsonb_set(
    coalesce(proof::jsonb, '{{}}'), '{{run}}',
    coalesce(proof::jsonb -> 'run', '{{}}') || jsonb_build_object(
        'until', now() + :lease, 'number', coalesce((proof -> 'run' ->> 'number')::int, 0) + 1
    )
)::json
WHERE account = (
    SELECT account FROM sources
    WHERE checked_at IS NOT NULL AND (proof_day IS NULL OR proof_day < {_TODAY})
    AND coalesce((proof -> 'run' ->> 'until')::timestamptz, '-infinity') < now()
    ORDER BY account LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING account, account_id, proof
""")  # noqa: S608 words of ours
    .bindparams(bindparam("lease", type_=Interval()))
    .columns(account=Text, account_id=Text, proof=JSON)
)
# In the order of the table's key: the next comments after a place.
NEXT = statement(f"""
WITH {FRESH}
SELECT listed.ticket_id, listed.comment_id, email.id IS NULL AS is_missing
FROM (
    SELECT ticket_id, comment_id FROM source_emails
    WHERE account = :account AND (ticket_id, comment_id) > (:after_ticket, :after_comment)
    ORDER BY ticket_id, comment_id LIMIT {STEP}
) AS listed {EMAIL_OF}
ORDER BY listed.ticket_id, listed.comment_id
""")  # noqa: S608 words and a number of ours
_SETTLE = text(f"""
UPDATE sources SET proof_day = CASE WHEN :is_end THEN {_TODAY} ELSE proof_day END,
    proof = CASE WHEN :is_end THEN (CAST(:proof AS jsonb) || jsonb_build_object('at', now()))::json
        ELSE CAST(:proof AS json) END
WHERE account = :account AND (proof -> 'run' ->> 'number')::int = :number
RETURNING 1
""").bindparams(  # noqa: S608 words of ours
    bindparam("is_end", type_=Boolean()),
    bindparam("proof", type_=Text()),
    bindparam("account", type_=Text()),
    bindparam("number", type_=Integer()),
)
