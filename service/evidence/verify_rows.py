"""Verify rows of e-mails and acts of people against the last entries about them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.evidence.findings import Finding, Report, read_facts
from service.evidence.verify_erased import erased_but_present
from service.postgres.engine import transaction
from service.postgres.evidence_log import GONE, ROWS, TOLD

# Ids of e-mails, or of acts, of one step.
STEP = 2_000

Key = tuple[str, int | None]  # kind and subject
Facts = dict[str, Any]

_NAMES = {
    "accepted": "the request of the e-mail",
    "announced": "announcement",
    "stored": "file",
    "message": "the message",
    "act": "act",
}
# Acts are verified by their own numbers.
_OF_EMAILS = ("accepted", "announced", "stored", "message")
# The number of an attempt grows without an end of the job, and a merge may add an error.
_OF_END = ("status", "completed_at")


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry about an e-mail; without facts it was erased."""

    number: int
    kind: str
    subject: int | None
    facts: Facts | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """The end of an attempt, as its row has it."""

    finished_at: str | None
    outcome: str | None
    error_code: str | None


async def verify_emails(
    conn: AsyncConnection, place: Mapping[str, Any], report: Report
) -> dict[str, Any] | None:
    """Verify the next e-mails; return the place to go on at, or None at the end."""
    async with transaction(conn):
        await conn.execute(_SNAPSHOT)  # rows and entries of one moment
        first = await conn.scalar(_FIRST, {"after": place.get("after", 0)})
        if first is None:
            return None
        given = {"after": first - 1, "until": first - 1 + STEP}
        is_complete = bool(await conn.scalar(_IS_COMPLETE))
        entries = await _entries(conn, given)
        rows = await _rows(conn, given)
        attempts = await _attempts(conn, given)
        report.add(*await erased_but_present(conn, given))
    for email_id in sorted(entries.keys() | rows.keys()):
        found = judge(email_id, entries.get(email_id, ()), rows.get(email_id, {}), attempts.get(email_id, {}))
        report.count("emails")
        _report(found, report, is_complete=is_complete)
    return {"after": given["until"]}


async def verify_acts(
    conn: AsyncConnection, place: Mapping[str, Any], report: Report
) -> dict[str, Any] | None:
    """Verify acts that are about no e-mail, and look for acts whose rows are missing."""
    given = {"after": place.get("after", 0), "until": place.get("after", 0) + STEP}
    async with transaction(conn):
        await conn.execute(_SNAPSHOT)
        is_complete = bool(await conn.scalar(_IS_COMPLETE))
        logged = (await conn.execute(_ACTS_LOGGED, given)).all()
        acts = {row.id: json.loads(row.facts) for row in await conn.execute(_ACTS, given)}
        last = await conn.scalar(_LAST_ACT) or 0
    known = {row.subject: row for row in logged}  # in order: the last entry of each
    found = []
    for number, facts in acts.items():
        entry = known.get(number)
        told = None if entry is None or entry.facts is None else read_facts(entry.facts)
        if entry is None:
            found.append(Finding("row_not_logged", f"act {number} was never logged", facts["email"]))
        elif told is not None:
            found += _compare("act", number, told, facts, facts["email"])
    found += [
        Finding("row_missing", f"act {number} is missing", entry.email_id)
        for number, entry in known.items()
        if number not in acts and entry.facts is not None
    ]
    report.count("acts", len(acts))
    _report(found, report, is_complete=is_complete)
    return {"after": given["until"]} if given["until"] < last else None


def judge(
    email_id: int,
    entries: Sequence[Entry],
    rows: Mapping[Key, Facts],
    attempts: Mapping[int, Attempt],
) -> list[Finding]:
    """Compare the rows of one e-mail with the entries about it, in their order."""
    is_present = ("accepted", None) in rows
    gone = next((entry for entry in reversed(entries) if entry.kind in GONE), None)
    if not is_present:
        known = any(entry.kind == "accepted" for entry in entries)
        lost = known and gone is None
        return [Finding("email_missing", f"e-mail {email_id} is missing", email_id)] if lost else []
    if gone is not None:
        return [Finding("email_is_back", f"e-mail {email_id} is present, and was {gone.kind}", email_id)]
    found = [*_accepted_twice(email_id, entries), *_erased(email_id, entries, rows)]
    last = {(entry.kind, entry.subject): entry for entry in entries if entry.kind in _OF_EMAILS}
    for key, facts in rows.items():
        if key[0] in _OF_EMAILS:
            found += _check_row(email_id, key, facts, last.get(key))
    found += [
        Finding("row_missing", f"{_name(*key)} of e-mail {email_id} is missing", email_id)
        for key, entry in last.items()
        if key not in rows and entry.facts is not None
    ]
    return [*found, *_check_ends(email_id, entries, rows, attempts)]


def _check_row(email_id: int, key: Key, facts: Facts, entry: Entry | None) -> Iterable[Finding]:
    if entry is None:
        yield Finding("row_not_logged", f"{_name(*key)} of e-mail {email_id} was never logged", email_id)
    elif entry.facts is None and entry.kind == "stored":
        yield Finding("erased_but_present", f"{_name(*key)} of e-mail {email_id} was erased", email_id)
    elif entry.facts is not None:
        yield from _compare(*key, entry.facts, facts, email_id)


def _compare(
    kind: str, subject: int | None, told: Facts, facts: Facts, email_id: int | None
) -> list[Finding]:
    names = [
        name for name in facts.keys() | told.keys() if name not in TOLD and facts.get(name) != told.get(name)
    ]
    if not names:
        return []
    whose = "" if email_id is None else f" of e-mail {email_id}"
    message = f"{_name(kind, subject)}{whose} was changed: {', '.join(sorted(names))}"
    return [Finding("row_changed", message, email_id)]


def _erased(email_id: int, entries: Sequence[Entry], rows: Mapping[Key, Facts]) -> Iterable[Finding]:
    """Find erased entries of an e-mail that is present.

    Only a file of it may be erased; and a message or an act that was then recorded again, without what was erased of it.
    """
    last = {(entry.kind, entry.subject): entry for entry in entries}
    has_original = rows.get(("message", None), {}).get("original_sha256") is not None
    may_be_again = {"act"} if has_original else {"act", "message"}
    for entry in entries:
        is_again = entry.kind in may_be_again and last[entry.kind, entry.subject].facts is not None
        if entry.facts is None and entry.kind != "stored" and not is_again:
            message = (
                f"entry {entry.number} of e-mail {email_id} ({entry.kind}) was erased, and the e-mail was not"
            )
            yield Finding("erased_but_present", message, email_id)


def _accepted_twice(email_id: int, entries: Sequence[Entry]) -> Iterable[Finding]:
    accepted = [entry for entry in entries if entry.kind == "accepted" and entry.facts is not None]
    for entry in accepted[1:]:
        if _compare("accepted", None, accepted[0].facts or {}, entry.facts or {}, email_id):
            yield Finding(
                "logged_twice", f"e-mail {email_id} was accepted twice, see entry {entry.number}", email_id
            )


def _check_ends(
    email_id: int, entries: Sequence[Entry], rows: Mapping[Key, Facts], attempts: Mapping[int, Attempt]
) -> Iterable[Finding]:
    """Compare the present end of the job, and the ends of attempts, with the log."""
    state = [entry for entry in entries if entry.kind in {"ended", "reopened"}]
    last = state[-1] if state else None
    end = next((facts for (kind, _), facts in rows.items() if kind == "ended"), None)
    if end is not None and last is None:
        yield Finding("row_not_logged", f"the end of the job of e-mail {email_id} was never logged", email_id)
    elif end is None and last is not None and last.kind == "ended":
        yield Finding("row_changed", f"the job of e-mail {email_id} had ended, and no longer has", email_id)
    elif end is not None and last is not None and not _is_end(last, end):
        yield Finding("row_changed", f"the end of the job of e-mail {email_id} was changed", email_id)
    for entry in state:
        if entry.kind == "ended" and entry.facts is not None and entry.facts.get("outcome") is not None:
            yield from _check_attempt(email_id, entry.facts, attempts.get(entry.facts.get("attempt", 0)))


def _is_end(entry: Entry, end: Facts) -> bool:
    told = entry.facts
    return told is None or (entry.kind == "ended" and all(end[name] == told.get(name) for name in _OF_END))


def _check_attempt(email_id: int, told: Facts, attempt: Attempt | None) -> Iterable[Finding]:
    number = told.get("attempt")
    if attempt is None:
        yield Finding("row_missing", f"attempt {number} of e-mail {email_id} is missing", email_id)
    elif attempt != Attempt(told.get("completed_at"), told["outcome"], told.get("error_code")):
        yield Finding(
            "row_changed", f"the end of attempt {number} of e-mail {email_id} was changed", email_id
        )


def _name(kind: str, subject: int | None) -> str:
    return _NAMES[kind] if subject is None else f"{_NAMES[kind]} {subject}"


def _report(found: Sequence[Finding], report: Report, *, is_complete: bool) -> None:
    """Add findings; until all older rows are recorded, one without an entry is none."""
    for each in found:
        if each.code == "row_not_logged" and not is_complete:
            report.count("not_recorded_yet")
        else:
            report.add(each)


async def _entries(conn: AsyncConnection, given: Mapping[str, int]) -> dict[int, list[Entry]]:
    found: dict[int, list[Entry]] = defaultdict(list)
    for number, kind, email_id, subject, facts in await conn.execute(_ENTRIES, given):
        found[email_id].append(Entry(number, kind, subject, None if facts is None else read_facts(facts)))
    return found


async def _rows(conn: AsyncConnection, given: Mapping[str, int]) -> dict[int, dict[Key, Facts]]:
    found: dict[int, dict[Key, Facts]] = defaultdict(dict)
    for kind, statement in _ROWS.items():
        for email_id, subject, facts in await conn.execute(statement, given):
            found[email_id][kind, subject] = json.loads(facts)
    return found


async def _attempts(conn: AsyncConnection, given: Mapping[str, int]) -> dict[int, dict[int, Attempt]]:
    found: dict[int, dict[int, Attempt]] = defaultdict(dict)
    for email_id, number, *values in await conn.execute(_ATTEMPTS, given):
        found[email_id][number] = Attempt(*values)
    return found


_BOUNDS = [bindparam(name, type_=BigInteger()) for name in ("after", "until")]
_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_FIRST = text("""
SELECT least(
    (SELECT min(id) FROM incoming_emails WHERE id > :after),
    (SELECT min(email_id) FROM evidence_entries WHERE email_id > :after)
)
""").bindparams(_BOUNDS[0])
_IS_COMPLETE = text("SELECT later_done_at IS NOT NULL FROM evidence_log WHERE id = 1")
_ENTRIES = text("""
SELECT id, kind, email_id, subject, facts FROM evidence_entries
WHERE email_id > :after AND email_id <= :until ORDER BY email_id, id
""").bindparams(*_BOUNDS)
_ROWS = {
    kind: text(f"""
SELECT {email_id}, {subject}, CAST({facts} AS text) FROM {rows} WHERE {email_id} > :after AND {email_id} <= :until
""").bindparams(*_BOUNDS)  # noqa: S608 constants of ours
    for kind, (rows, email_id, subject, facts) in ROWS.items()
    if kind != "act"
}
# A time as it is in facts.
_ATTEMPTS = text("""
SELECT email_id, number, to_jsonb(timezone('UTC', finished_at)) #>> '{}', outcome, error_code FROM attempts
WHERE email_id > :after AND email_id <= :until
""").bindparams(*_BOUNDS)
_ACTS = text(f"""
SELECT act.id, CAST({ROWS["act"][3]} AS text) AS facts FROM operator_actions AS act
WHERE act.id > :after AND act.id <= :until
""").bindparams(*_BOUNDS)  # noqa: S608 constants of ours
_ACTS_LOGGED = text("""
SELECT subject, facts, email_id FROM evidence_entries
WHERE kind = 'act' AND subject > :after AND subject <= :until ORDER BY id
""").bindparams(*_BOUNDS)
_LAST_ACT = text("""
SELECT greatest((SELECT max(id) FROM operator_actions), (SELECT max(subject) FROM evidence_entries WHERE kind = 'act'))
""")
