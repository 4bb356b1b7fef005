"""Verify entries against leaves, and leaves against nodes, heads and the state of the log."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.evidence.findings import Finding, Report, read_facts
from service.evidence.tree import Tree, leaf_hash
from service.postgres.prepared import Prepared

# Leaves of one step.
STEP = 20_000
# A transaction may have begun so long before its entry is placed; clocks of two servers differ less.
TOLERANCE = timedelta(hours=1)
# Which of the facts is the subject of an entry.
SUBJECTS = {
    "announced": "announcement",
    "stored": "position",
    "ended": "attempt",
    "reopened": "attempt",
    "act": "act",
}


async def verify_leaves(
    conn: AsyncConnection, place: Mapping[str, Any], report: Report
) -> dict[str, Any] | None:
    """Verify the next leaves; return the place to go on at, or None at the end."""
    tree = Tree.of(place.get("after", 0), bytes.fromhex(place.get("peaks", "")))
    first = tree.size
    rows = await _LEAVES.fetch(conn, {"first": first, "limit": STEP})
    rows = _until_gap(rows, first, report)
    heads = (
        [] if not rows else (await conn.execute(_HEADS, {"first": first, "last": first + len(rows)})).all()
    )
    nodes = []
    done = 0
    since = _parsed(place.get("since"))
    for head in [*heads, None]:
        end = len(rows) if head is None else head.size - first
        part = rows[done:end]
        _check_entries(part, since, None if head is None else head.at, report)
        nodes += tree.extend([row[2] for row in part])
        done = end
        if head is not None:
            if tree.root != head.root:
                report.add(
                    Finding("root_differs", f"head {head.number}: its {head.size} leaves have another root")
                )
            since = head.at
    await _check_nodes(conn, first, tree.size, nodes, report)
    report.count("leaves", len(rows))
    if rows:
        return {"after": tree.size, "peaks": b"".join(tree.peaks).hex(), "since": since and since.isoformat()}
    return await _check_end(conn, tree, place, report)


async def verify_placed(
    conn: AsyncConnection, place: Mapping[str, Any], report: Report
) -> dict[str, Any] | None:
    """Look for entries that have no leaf; return the place to go on at, or None at the end."""
    after = place.get("after", 0)
    until = after + STEP
    for entry_id, facts in await conn.execute(_NOT_PLACED, {"after": after, "until": until}):
        at = _parsed(read_facts(facts).get("at"))
        if at is None or at < datetime.now(UTC) - TOLERANCE:
            report.add(Finding("entry_not_placed", f"entry {entry_id} has no place in the tree"))
    return {"after": until} if until < (await conn.scalar(_LAST_ENTRY) or 0) else None


def _until_gap(rows: Sequence[Any], first: int, report: Report) -> Sequence[Any]:
    """Return the leaves before the first gap: those after it cannot be placed in the tree."""
    if rows and rows[-1][0] != first + len(rows) - 1:
        gap = next(number for number, row in enumerate(rows) if row[0] != first + number)
        report.add(Finding("leaf_missing", f"leaf {first + gap} is missing"))
        return rows[:gap]
    return rows


def _check_entries(
    rows: Sequence[Any], since: datetime | None, until: datetime | None, report: Report
) -> None:
    """Compare leaves with their entries, and the times of the entries with the heads before and after them."""
    earliest = None if since is None else (since - TOLERANCE).astimezone(UTC).replace(tzinfo=None).isoformat()
    latest = None if until is None else (until + TOLERANCE).astimezone(UTC).replace(tzinfo=None).isoformat()
    for index, entry_id, leaf, number, salt, facts, kept, kind, email_id, subject in rows:
        if number is None:
            report.add(Finding("entry_missing", f"leaf {index}: entry {entry_id} is missing"))
        elif salt is None and facts is None:
            report.count("erased")
            if kept != leaf:
                report.add(
                    Finding(
                        "entry_changed", f"entry {number} is erased, and its hash is not its leaf", email_id
                    )
                )
        elif salt is None or facts is None or kept is not None or leaf_hash(salt, facts.encode()) != leaf:
            report.add(
                Finding("entry_changed", f"entry {number} is not what leaf {index} was made of", email_id)
            )
        else:
            told = read_facts(facts)
            named = (told.get("kind"), told.get("email"), told.get(SUBJECTS.get(kind, "")))
            if named != (kind, email_id, subject):
                report.add(
                    Finding("entry_changed", f"entry {number} names something else than its facts", email_id)
                )
            at = told.get("at", "")
            if (earliest and at < earliest) or (latest and at > latest):
                report.add(
                    Finding("time_out_of_order", f"entry {number} says {at}, between other heads", email_id)
                )
            if "later" in told:
                report.count("recorded_later")


async def _check_nodes(
    conn: AsyncConnection, first: int, last: int, nodes: Sequence[Any], report: Report
) -> None:
    if first == last:
        return
    found = (await conn.execute(_NODES, {"first": first, "last": last})).all()
    stored = {(level, index): bytes(value) for level, index, value in found}
    computed = {(node.level, node.place): node.value for node in nodes}
    for level, index in stored.keys() | computed.keys():
        if stored.get((level, index)) != computed.get((level, index)):
            report.add(
                Finding("node_changed", f"node {index} of level {level} is not the hash of its leaves")
            )


async def _check_end(
    conn: AsyncConnection, tree: Tree, place: Mapping[str, Any], report: Report
) -> dict[str, Any] | None:
    """Compare the whole tree with the state of the log; go on if leaves were added meanwhile."""
    state = (await conn.execute(_STATE, {"size": tree.size})).one()
    if state.leaves > tree.size and not state.has_gap:
        return dict(place)
    if state.leaves > tree.size:  # leaves after a gap, which was reported
        report.count("leaves_after_a_gap", state.leaves - tree.size)
    elif (state.size, state.peaks) != (tree.size, b"".join(tree.peaks)):
        report.add(Finding("frontier_changed", f"the log says {state.size} leaves, and has {tree.size}"))
    if state.heads_beyond:
        report.add(
            Finding("leaf_missing", f"{state.heads_beyond} heads are about more than {tree.size} leaves")
        )
    report.counts["size"] = tree.size
    return None


def _parsed(time: str | None) -> datetime | None:
    """Return a time of facts or of a place; times of facts are in UTC and have no zone."""
    if not time:
        return None
    try:
        found = datetime.fromisoformat(time)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


_SPAN = [bindparam(name, type_=BigInteger()) for name in ("first", "last")]
_LEAVES = Prepared(
    text("""
SELECT leaf.index, leaf.entry_id, leaf.hash, entry.id, entry.salt, entry.facts, entry.hash, entry.kind,
    entry.email_id, entry.subject
FROM evidence_leaves AS leaf LEFT JOIN evidence_entries AS entry ON entry.id = leaf.entry_id
WHERE leaf.index >= :first ORDER BY leaf.index LIMIT :limit
""").bindparams(*(bindparam(name, type_=BigInteger()) for name in ("first", "limit")))
)
_HEADS = text("""
SELECT number, size, root, at FROM evidence_heads WHERE size > :first AND size <= :last ORDER BY size, number
""").bindparams(*_SPAN)
# The nodes whose last leaf is among these.
_NODES = text("""
SELECT node.level, index, hash FROM generate_series(0, 62) AS every(level)
JOIN evidence_nodes AS node ON node.level = every.level
WHERE index >= :first >> every.level AND index < :last >> every.level
""").bindparams(*_SPAN)
_STATE = text("""
SELECT size, peaks, (SELECT coalesce(max(index) + 1, 0) FROM evidence_leaves) AS leaves,
    NOT EXISTS (SELECT FROM evidence_leaves WHERE index = :size) AS has_gap,
    (SELECT count(*) FROM evidence_heads WHERE evidence_heads.size > greatest(:size, evidence_log.size)) AS heads_beyond
FROM evidence_log WHERE id = 1
""").bindparams(bindparam("size", type_=BigInteger()))
# The leaves have these bounds, too: otherwise Postgres would read all that come before.
_NOT_PLACED = text("""
SELECT id, facts FROM evidence_entries
WHERE id > :after AND id <= :until AND NOT EXISTS (
    SELECT FROM evidence_leaves WHERE entry_id = evidence_entries.id AND entry_id > :after AND entry_id <= :until
)
ORDER BY id
""").bindparams(*(bindparam(name, type_=BigInteger()) for name in ("after", "until")))
_LAST_ENTRY = text("SELECT max(id) FROM evidence_entries")
