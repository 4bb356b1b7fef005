"""Inspect the table of a previous system, and plan the changes that Holdfast needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.formatting import counted
from service.migrations import revisions
from service.migrations.revisions import DatabaseState, migrations_after
from service.postgres.email_tables import STATUSES, UNREAD
from service.postgres.operation_tables import TABLES
from service.takeover.existing_table import (
    FIRST,
    REQUIRED,
    TRIGGER,
    ExistingTable,
    TableColumn,
    adapt,
    read_table,
)

FINISHED = ("completed", "failed")
# States of unfinished e-mails in other systems; a `processing` e-mail of theirs has no worker any more.
UNFINISHED = {"received", "queued", "pending", "processing"}
_MAY_BE_MEANT = {"processed": "completed", "done": "completed", "success": "completed", "error": "failed"}


@dataclass(slots=True)
class TakeoverPlan:
    """The changes of a takeover, and the reasons that prevent it."""

    standing: DatabaseState
    table: ExistingTable | None = None
    rows: int = 0
    given: Mapping[str, str] = field(default_factory=dict)  # the meanings of unknown states, from the user
    states: dict[str, str] = field(default_factory=dict)  # old state to new state, if they differ
    unknown: dict[str, int] = field(default_factory=dict)  # e-mails by state without a meaning
    counts: dict[str, int] = field(default_factory=dict)  # e-mails by old state
    missing: dict[str, int] = field(default_factory=dict)  # missing values by required column
    has_repeated_keys: bool = False
    lists: tuple[int, int] = (0, 0)  # unfinished and finished e-mails with unread lists of files
    migrations: Sequence[str] = ()
    is_begun: bool = False  # an earlier takeover stamped its revision, but did not finish
    stops: list[str] = field(default_factory=list)

    @property
    def is_foreign(self) -> bool:
        return self.standing.kind == "other_system"

    @property
    def optional(self) -> list[str]:
        """Return the required columns that are nullable now."""
        if self.table is None:
            return []
        columns, added = self.table.columns, self.table.added
        is_new = "received_at" in added
        return [
            name
            for name in REQUIRED
            if (name in columns and not columns[name].is_required) or (name == "received_at" and is_new)
        ]

    @property
    def is_needed(self) -> bool:
        return bool(
            self.is_foreign
            or self.stops
            or (self.table and (self.table.changes or self.table.before))
            or self.states
            or self.unknown
            or self.optional
            or (self.table and not self.table.has_unique_key)
            or any(self.lists)
            or (self.is_begun and self.migrations)
        )

    @property
    def unused(self) -> Sequence[str]:
        """Return the states with a meaning that no row has; a takeover that has begun may have mapped them."""
        return [] if self.is_begun else [state for state in self.given if state not in self.counts]

    @property
    def reason_for_none(self) -> str:
        """Return one sentence on why no takeover is needed."""
        if self.standing.kind == "empty":
            return "The database is empty, and there is nothing to take over: run `holdfast migrate`."
        if self.standing.is_blocked:
            return f"{self.standing}."
        if self.migrations:
            return "This is a database of an older Holdfast, which needs no takeover: run `holdfast migrate`."
        return "This database needs no takeover: its tables are those of this Holdfast."


async def make_plan(conn: AsyncConnection, given: Mapping[str, str]) -> TakeoverPlan:
    """Plan a takeover; `given` has the meanings of states that Holdfast does not know."""
    standing = await revisions.look(conn)
    plan = TakeoverPlan(standing, given=given)
    if not (plan.is_foreign or standing.is_ours):
        return plan
    plan.migrations = migrations_after(FIRST) if plan.is_foreign else standing.missing
    plan.table = table = await read_table(conn)
    adapt(table, is_foreign=plan.is_foreign)
    plan.is_begun = table.has_trigger
    plan.stops = [*table.stops, *(await _conflicting_tables(conn) if plan.is_foreign else ())]
    if table.kind != "r":
        return plan
    plan.rows = await conn.scalar(text("SELECT count(*) FROM incoming_emails")) or 0
    await _plan_states(conn, plan)
    await _plan_values(conn, plan, table.columns)
    await _count_lists(conn, plan, table.columns)
    return plan


async def keeps_limits(conn: AsyncConnection) -> bool:
    """Tell whether a table with Holdfast's revision still has limits of a previous system."""
    table = await read_table(conn)
    adapt(table, is_foreign=False)
    return bool(table.changes or table.before or TakeoverPlan(DatabaseState("current", ""), table).optional)


def meaning_of(state: str, given: Mapping[str, str]) -> str | None:
    """Return our state for a state of another system; None if unknown."""
    if state in STATUSES and state != "processing":
        return state
    word = state.strip().lower()
    if word in UNFINISHED or not word:
        return "received"
    return word if word in FINISHED else given.get(state)


def suggest_meaning(state: str) -> str:
    """Return a likely meaning of an unknown state."""
    return _MAY_BE_MEANT.get(state.strip().lower(), "received")


async def _conflicting_tables(conn: AsyncConnection) -> list[str]:
    names = [name for name in TABLES.tables if name != "incoming_emails"]
    taken = await conn.scalars(
        text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass(name) IS NOT NULL"),
        {"names": names},
    )
    return [
        f"The table {name} exists, and Holdfast needs this name: rename it (ALTER TABLE {name} RENAME TO {name}_before)."
        for name in taken
    ]


async def _plan_states(conn: AsyncConnection, plan: TakeoverPlan) -> None:
    assert plan.table  # noqa: S101 the caller has read it
    if "processing_status" not in plan.table.columns or not (plan.is_foreign or plan.is_begun):
        return
    rows = await conn.execute(
        text(
            "SELECT coalesce(processing_status::text, '') AS state, count(*) FROM incoming_emails GROUP BY 1 ORDER BY 1"
        )
    )
    for state, count in rows:
        plan.counts[state] = count
        new = meaning_of(state, plan.given)
        if not plan.is_foreign and state in STATUSES:
            continue  # already a state of Holdfast
        if new is None:
            plan.unknown[state] = count
        elif new != state:
            plan.states[state] = new


async def _plan_values(conn: AsyncConnection, plan: TakeoverPlan, columns: Mapping[str, TableColumn]) -> None:
    """Count missing values, and check for repeated keys."""
    assert plan.table  # noqa: S101 the caller has read it
    if "received_at" in plan.table.added and plan.rows:
        plan.missing["received_at"] = plan.rows
    if wanted := [name for name in plan.optional if name in columns and name != "processing_status"]:
        counts = ", ".join(f"count(*) FILTER (WHERE {_is_missing(name)}) AS {name}" for name in wanted)
        row = (await conn.execute(text(f"SELECT {counts} FROM incoming_emails"))).one()  # noqa: S608 names of ours
        plan.missing |= {name: number for name, number in zip(wanted, row, strict=True) if number}
    if "idempotency_key" in columns and not plan.table.has_unique_key:
        repeated = text("""
            SELECT EXISTS (SELECT FROM incoming_emails WHERE idempotency_key <> ''
            GROUP BY idempotency_key HAVING count(*) > 1)
        """)
        plan.has_repeated_keys = bool(await conn.scalar(repeated))


def _is_missing(name: str) -> str:
    return "coalesce(idempotency_key, '') = ''" if name == "idempotency_key" else f"{name} IS NULL"


async def _count_lists(conn: AsyncConnection, plan: TakeoverPlan, columns: Mapping[str, TableColumn]) -> None:
    if "attachment_urls" not in columns:
        return
    known = {"raw_body", "reading_hash"} <= columns.keys() and not plan.is_foreign
    unread = UNREAD if known else "attachment_urls IS NOT NULL"
    rows = await conn.execute(
        text(f"""
            SELECT coalesce(processing_status::text, '') AS state, count(*) FROM incoming_emails
            WHERE {unread} AND attachment_urls::text NOT IN ('', 'null', '[]', '{{}}', '""') GROUP BY 1
        """)  # noqa: S608 words of ours
    )
    unfinished = finished = 0
    for state, count in rows:
        if (plan.states.get(state) or meaning_of(state, {})) in FINISHED:
            finished += count
        else:
            unfinished += count
    plan.lists = unfinished, finished


def describe(plan: TakeoverPlan) -> list[str]:
    """Return the steps of the takeover as sentences."""
    assert plan.table  # noqa: S101 a plan with steps has a table
    steps = [*plan.table.sentences]
    if not plan.table.has_trigger:
        steps.append(
            f"Install the trigger {TRIGGER}, which gives states and keys to rows that the previous system still writes."
        )
    steps += _row_steps(plan)
    if plan.is_foreign:
        steps.append(f"Stamp the revision {FIRST}, replacing {plan.standing.revision or 'none'}.")
    if plan.migrations and (plan.is_foreign or plan.is_begun):
        steps.append(f"Run {len(plan.migrations)} migrations.")
    unfinished, finished = plan.lists
    if unfinished:
        steps.append(
            f"Make attachments of the lists of {_emails(unfinished)} that are unfinished; attempts fetch the files."
        )
    if finished:
        steps.append(
            f"Make attachments of the lists of {_emails(finished)} that are finished, as not captured;"
            " `holdfast emails retry --all --error-code not_captured` fetches the files that still exist."
        )
    return steps


def _row_steps(plan: TakeoverPlan) -> list[str]:
    steps = []
    for name, count in plan.missing.items():
        steps.append(f"Fill {name} of {_emails(count)} without a value.")
    if plan.optional:
        steps.append(f"Require a value in {', '.join(plan.optional)}.")
    if plan.table and not plan.table.has_unique_key:
        steps.append("Make idempotency_key unique.")
    if plan.has_repeated_keys:
        steps.append("Give a new key to each e-mail that repeats the idempotency_key of an earlier one.")
    stay = sum(count for state, count in plan.counts.items() if state in FINISHED)
    for state, new in plan.states.items():
        old = f"the state {state!r}" if state else "no state"
        steps.append(f"Map {old} of {_emails(plan.counts[state])} to {new!r}.")
    for state, count in plan.unknown.items():
        steps.append(
            f"Map the unknown state {state!r} of {_emails(count)}: add --map {state}=completed or =failed, or =received"
            " to have Holdfast process them."
        )
    if stay and plan.is_foreign:
        steps.append(f"Leave {_emails(stay)} finished, as completed or failed.")
    return steps


def _emails(count: int) -> str:
    return counted(count, "e-mail")
