"""The simulator: what retention rules would delete now and within a year, of the e-mails that are on record."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    Subquery,
    and_,
    any_,
    func,
    literal,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncEngine

from service.custody.retention import Decision, candidates_after, decide
from service.custody.retention_rules import Rule
from service.postgres.email_tables import Attachment
from service.postgres.engine import connect
from service.postgres.held_emails import holds_on
from service.postgres.search import inline_number

YEAR_DAYS = 365
EXAMPLES = 5
# The rows that one statement examines.
EXAMINED = 10_000


@dataclass(slots=True)
class Volume:
    """E-mails and their stored files; a file that several e-mails have counts for each."""

    emails: int = 0
    files: int = 0
    bytes: int = 0

    def add(self, emails: int, files: int, size: int) -> None:
        self.emails += emails
        self.files += files
        self.bytes += size


@dataclass(slots=True)
class RuleOutcome:
    """What one rule would do. `within_year` contains `now`."""

    rule: Rule
    matching: int = 0
    now: Volume = field(default_factory=Volume)
    within_year: Volume = field(default_factory=Volume)
    held: int = 0  # due now, but a hold covers them
    needing_attention: int = 0  # due now, but they need attention
    examples: list[int] = field(default_factory=list)  # the oldest that are due now


@dataclass(slots=True)
class Simulation:
    """The outcomes of all rules; if not complete, those of the oldest e-mails alone."""

    outcomes: list[RuleOutcome]
    examined: int = 0
    without_rule: int = 0  # kept for ever
    is_complete: bool = True


async def simulate(
    engine: AsyncEngine,
    rules: Sequence[Rule],
    floor_days: int,
    seconds: float | None = None,
    *,
    examined: int = EXAMINED,
) -> Simulation:
    """Simulate rules, whether saved or not, on all e-mails, or on as many as `seconds` allow."""
    result = Simulation([RuleOutcome(rule) for rule in rules])
    if not rules:
        return result
    loop = asyncio.get_running_loop()
    deadline = None if seconds is None else loop.time() + seconds
    place: int | None = 0
    async with connect(engine) as conn:
        while place is not None:
            if deadline is not None and loop.time() > deadline:
                result.is_complete = False
                break
            candidates = candidates_after(place, examined)
            decision = decide(rules, candidates, floor_days)
            soon = select(candidates.c.id).where(decision.is_over(YEAR_DAYS))
            held = await holds_on(conn, (await conn.scalars(soon)).all())
            rows = (await conn.execute(_outcomes(candidates, decision, [*held]))).all()
            _add(result, rows)
            is_full = sum(row.matching for row in rows) == examined
            place = max(row.reached for row in rows) if is_full else None
    return result


def _outcomes(candidates: Subquery, decision: Decision, held: Sequence[int]) -> Select[*tuple[Any, ...]]:
    """Count per rule: one row for each place of a rule, and one without a place for e-mails without a rule."""
    now, year = decision.is_over(), decision.is_over(YEAR_DAYS)
    is_held = candidates.c.id == any_(literal(held, ARRAY(BigInteger)))
    files = _files(candidates, year)
    goes_now = and_(now, ~decision.needs_attention, ~is_held)
    goes_soon = and_(year, ~decision.needs_attention, ~is_held)
    ids: ColumnElement[Any] = func.array_agg(aggregate_order_by(candidates.c.id, candidates.c.id)).filter(
        goes_now
    )
    return (
        select(
            decision.place.label("place"),
            func.count().label("matching"),
            func.max(candidates.c.id).label("reached"),
            *_volume("now", goes_now, files),
            *_volume("year", goes_soon, files),
            func.count().filter(now, is_held).label("held"),
            func.count().filter(now, decision.needs_attention, ~is_held).label("needing_attention"),
            ids.label("ids"),
        )
        .select_from(candidates.join(files, true(), isouter=True))
        .group_by(literal_column("place"))
    )


def _files(candidates: Subquery, wanted: ColumnElement[bool]) -> Any:  # noqa: ANN401 a lateral subquery
    """Count the stored files of an e-mail; Postgres looks only for those of wanted e-mails."""
    stored = (Attachment.email_id == candidates.c.id, Attachment.status == "stored", wanted)
    columns = func.count().label("files"), func.sum(Attachment.size).label("bytes")
    return select(*columns).where(*stored).lateral("files")


def _volume(name: str, wanted: ColumnElement[bool], files: Any) -> list[ColumnElement[int]]:  # noqa: ANN401 as above
    numbers = (func.count(), func.sum(files.c.files), func.sum(files.c.bytes))
    parts = zip(("emails", "files", "bytes"), numbers, strict=True)
    return [
        func.coalesce(number.filter(wanted), inline_number(0)).label(f"{name}_{part}")
        for part, number in parts
    ]


def _add(result: Simulation, rows: Sequence[Any]) -> None:
    for row in rows:
        result.examined += row.matching
        if row.place is None:
            result.without_rule += row.matching
            continue
        outcome = result.outcomes[row.place]
        outcome.matching += row.matching
        outcome.now.add(row.now_emails, row.now_files, int(row.now_bytes))
        outcome.within_year.add(row.year_emails, row.year_files, int(row.year_bytes))
        outcome.held += row.held
        outcome.needing_attention += row.needing_attention
        outcome.examples += (row.ids or [])[: EXAMPLES - len(outcome.examples)]
