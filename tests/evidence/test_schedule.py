"""Verification by the clock: one worker at a time, resumed after a kill, and an alert if it differs or does not end."""

from dataclasses import replace

import asyncpg
import pytest

from service.alerts import evidence as alert
from service.errors import Transient
from service.evidence import verify
from service.evidence.findings import Report
from service.queries.evidence import evidence_sentence
from service.resources import Resources
from tests.support.evidence import populate
from tests.support.rows import add

DAY = "UPDATE evidence_log SET began_at = began_at - interval '1 day'"


async def alerts_of(res: Resources) -> list[tuple[str, str, int]]:
    found = await res.run(lambda conn: alert.find(conn, res.settings.evidence_verify_hours))
    return [(each.cause, each.key, each.count) for each in found]


async def test_a_verification_is_due_a_day_after_the_log_began_and_after_the_last_one(
    res: Resources, database: asyncpg.Connection
) -> None:
    await populate(res, 1)

    young = await verify.verify_if_due(res)
    before = await res.run(lambda conn: evidence_sentence(conn, res.settings))
    await database.execute(DAY)
    first, again = await verify.verify_if_due(res), await verify.verify_if_due(res)
    await database.execute("UPDATE evidence_verifications SET ended_at = now() - interval '1 day'")
    second = await verify.verify_if_due(res)

    assert (young, again) == (None, None)
    assert (first and first.is_good, second and second.is_good) == (True, True)
    assert before == "Not verified yet: a worker verifies every 1 d."
    assert "nothing was changed" in await res.run(lambda conn: evidence_sentence(conn, res.settings))
    assert await alerts_of(res) == []


async def test_one_process_verifies_and_another_goes_on_after_the_lease_of_a_killed_one(
    res: Resources, database: asyncpg.Connection
) -> None:
    await populate(res, 1)
    await database.execute(DAY)
    parts: list[str] = []

    def watch(part: str, _report: Report) -> None:
        parts.append(part)

    run = await res.run(lambda conn: verify._claim(conn, with_objects=False))
    while_leased = await verify.verify_if_due(res)
    await database.execute(
        'UPDATE evidence_verifications SET lease_until = now(), place = \'{"part": "acts"}\''
    )
    found = await verify.verify(res, with_objects=False, watch=watch)

    assert while_leased is None
    assert (found.id, parts) == (run.id, ["acts", "objects"])
    with pytest.raises(Transient, match="Another process"):
        await verify._verify(res, run, watch)


async def test_findings_are_an_alert_until_a_verification_finds_none(
    res: Resources, database: asyncpg.Connection
) -> None:
    """A verification without files says nothing about those that another one found missing."""
    about = {"place": "{}", "counts": '{"findings": 2}', "lease_until": None}
    missing = '[{"code": "object_missing"}, {"code": "row_changed"}]'

    seen = []
    for with_objects, findings, counts in (
        (True, missing, '{"findings": 2}'),
        (False, "[]", "{}"),
        (True, "[]", "{}"),
    ):
        row = {**about, "with_objects": with_objects, "findings": findings, "counts": counts}
        number = await add(database, "evidence_verifications", **row)
        await database.execute("UPDATE evidence_verifications SET ended_at = now() WHERE id = $1", number)
        seen.append(await alerts_of(res))

    assert seen == [[("evidence", "", 2)], [("evidence", "", 1)], []]


@pytest.mark.parametrize(
    ("hours", "days", "late"), [(24, 1, False), (24, 3, True), (72, 3, False), (0, 9, False)]
)
async def test_two_days_without_a_verification_are_an_alert(
    res: Resources, database: asyncpg.Connection, hours: int, days: int, *, late: bool
) -> None:
    await populate(res, 1)
    await database.execute(f"UPDATE evidence_log SET began_at = now() - interval '{days} days'")
    await database.execute(
        "INSERT INTO workers (name, pid, version, started_at, seen_at)"
        " VALUES ('w', 1, '1', now() - interval '1 day', now())"
    )
    res = replace(res, settings=res.settings.model_copy(update={"evidence_verify_hours": hours}))

    assert await alerts_of(res) == ([("evidence", "late", 1)] if late else [])
