"""Look at a table that another system made, and plan what has to change for it to be Holdfast's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.formatting import counted
from service.migrations import revisions
from service.migrations.revisions import Standing, migrations_after
from service.postgres.email_tables import STATUSES, UNREAD
from service.postgres.operation_tables import TABLES
from service.takeover.table import FIRST, REQUIRED, TRIGGER, Column, Table, adapt, read_table

FINISHED = ("completed", "failed")
# What other systems call an e-mail that is to be worked on; Dramatiq's `processing` is held by nobody any more.
UNFINISHED = {"received", "queued", "pending", "processing"}
_MAY_BE_MEANT = {"processed": "completed", "done": "completed", "success": "completed", "error": "failed"}


@dataclass(slots=True)
class Plan:
    """What a takeover will do, and what is in its way."""

    standing: Standing
    table: Table | None = None
    rows: int = 0
    given: Mapping[str, str] = field(
        default_factory=dict
    )  # what states mean that only the other system knows
    states: dict[str, str] = field(default_factory=dict)  # the old word and the new one, where they differ
    unknown: dict[str, int] = field(
        default_factory=dict
    )  # states nobody has given a meaning, and their e-mails
    counts: dict[str, int] = field(default_factory=dict)  # of e-mails by their old state
    missing: dict[str, int] = field(default_factory=dict)  # NULLs by the column that takes none
    has_repeated_keys: bool = False
    lists: tuple[int, int] = (0, 0)  # unfinished and finished e-mails whose files are only listed
    migrations: Sequence[str] = ()
    is_begun: bool = False  # an earlier takeover was stamped, and did not end
    stops: list[str] = field(default_factory=list)

    @property
    def is_foreign(self) -> bool:
        return self.standing.kind == "other_system"

    @property
    def optional(self) -> list[str]:
        """Name the columns in which a value is needed, and which may be NULL."""
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
    def nothing(self) -> str:
        """Say in one sentence why there is nothing to take over."""
        if self.standing.kind == "empty":
            return "The database is empty, and there is nothing to take over: run `holdfast migrate`."
        if self.standing.is_hindered:
            return f"{self.standing}."
        if self.migrations:
            return "This is a database of an older Holdfast, which needs no takeover: run `holdfast migrate`."
        return "This database needs no takeover: its tables are those of this Holdfast."


async def look(conn: AsyncConnection, given: Mapping[str, str]) -> Plan:
    """Plan a takeover; `given` says what states mean that only the other system knows."""
    standing = await revisions.look(conn)
    plan = Plan(standing, given=given)
    if not (plan.is_foreign or standing.is_ours):
        return plan
    plan.migrations = migrations_after(FIRST) if plan.is_foreign else standing.missing
    plan.table = table = await read_table(conn)
    adapt(table, is_foreign=plan.is_foreign)
    plan.is_begun = table.has_trigger
    plan.stops = [*table.stops, *(await _taken_names(conn) if plan.is_foreign else ())]
    if table.kind != "r":
        return plan
    plan.rows = await conn.scalar(text("SELECT count(*) FROM incoming_emails")) or 0
    await _look_at_states(conn, plan)
    await _look_at_values(conn, plan, table.columns)
    await _look_at_lists(conn, plan, table.columns)
    return plan


async def keeps_limits(conn: AsyncConnection) -> bool:
    """Tell whether the table of a database of ours keeps what another system made."""
    table = await read_table(conn)
    adapt(table, is_foreign=False)
    return bool(table.changes or table.before or Plan(Standing("current", ""), table).optional)


def mean(state: str, given: Mapping[str, str]) -> str | None:
    """Give the state of ours that another system's word means; None where nobody has told."""
    if state in STATUSES and state != "processing":
        return state
    word = state.strip().lower()
    if word in UNFINISHED or not word:
        return "received"
    return word if word in FINISHED else given.get(state)


def may_mean(state: str) -> str:
    """Suggest what a word may mean."""
    return _MAY_BE_MEANT.get(state.strip().lower(), "received")


async def _taken_names(conn: AsyncConnection) -> list[str]:
    names = [name for name in TABLES.tables if name != "incoming_emails"]
    taken = await conn.scalars(
        text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass(name) IS NOT NULL"),
        {"names": names},
    )
    return [
        f"The table {name} exists, and Holdfast needs this name: rename it (ALTER TABLE {name} RENAME TO {name}_before)."
        for name in taken
    ]


async def _look_at_states(conn: AsyncConnection, plan: Plan) -> None:
    assert plan.table  # noqa: S101 the caller read it
    if "processing_status" not in plan.table.columns or not (plan.is_foreign or plan.is_begun):
        return
    rows = await conn.execute(
        text(
            "SELECT coalesce(processing_status::text, '') AS state, count(*) FROM incoming_emails GROUP BY 1 ORDER BY 1"
        )
    )
    for state, count in rows:
        plan.counts[state] = count
        new = mean(state, plan.given)
        if not plan.is_foreign and state in STATUSES:
            continue  # Holdfast's own by now
        if new is None:
            plan.unknown[state] = count
        elif new != state:
            plan.states[state] = new


async def _look_at_values(conn: AsyncConnection, plan: Plan, columns: Mapping[str, Column]) -> None:
    """Count what has to be filled in."""
    assert plan.table  # noqa: S101 the caller read it
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


async def _look_at_lists(conn: AsyncConnection, plan: Plan, columns: Mapping[str, Column]) -> None:
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
        if (plan.states.get(state) or mean(state, {})) in FINISHED:
            finished += count
        else:
            unfinished += count
    plan.lists = unfinished, finished


def describe(plan: Plan) -> list[str]:
    """Say what will be done, a sentence each."""
    assert plan.table  # noqa: S101 there is none only where there is nothing to describe
    steps = [*plan.table.sentences]
    if not plan.table.has_trigger:
        steps.append(
            f"Install the trigger {TRIGGER}: rows that the previous system still writes get the same states and keys."
        )
    steps += _of_rows(plan)
    if plan.is_foreign:
        steps.append(f"Stamp the revision {FIRST}, in the place of {plan.standing.revision or 'none'}.")
    if plan.migrations and (plan.is_foreign or plan.is_begun):
        steps.append(f"Run {len(plan.migrations)} migrations.")
    unfinished, finished = plan.lists
    if unfinished:
        steps.append(
            f"Make attachments of the lists of {_emails(unfinished)} that are not finished: attempts fetch them."
        )
    if finished:
        steps.append(
            f"Make attachments of the lists of {_emails(finished)} that are finished, as not captured:"
            " `holdfast emails retry --all --error-code not_captured` fetches what is still there."
        )
    return steps


def _of_rows(plan: Plan) -> list[str]:
    said = []
    for name, count in plan.missing.items():
        said.append(f"Fill {name} of {_emails(count)} that have none.")
    if plan.optional:
        said.append(f"Require a value in {', '.join(plan.optional)} from then on.")
    if plan.table and not plan.table.has_unique_key:
        said.append("Make idempotency_key unique.")
    if plan.has_repeated_keys:
        said.append("Give e-mails that repeat the idempotency_key of an earlier one a key of their own.")
    stay = sum(count for state, count in plan.counts.items() if state in FINISHED)
    for state, new in plan.states.items():
        old = f"the state {state!r}" if state else "no state"
        said.append(f"Map {old} of {_emails(plan.counts[state])} to {new!r}.")
    for state, count in plan.unknown.items():
        said.append(
            f"Map the state {state!r} of {_emails(count)}, which is unknown: add --map {state}=completed, or =failed, or"
            " =received to have Holdfast work on them."
        )
    if stay and plan.is_foreign:
        said.append(f"Leave {_emails(stay)} finished, as completed or failed.")
    return said


def _emails(count: int) -> str:
    return counted(count, "e-mail")
