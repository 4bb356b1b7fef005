"""What runs found is open until it was put right, or looked at again; what alerts and metrics tell comes from here."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Any

import asyncpg
import pytest

from service.database import connect
from service.differences import Differences, open_differences
from service.reconcile import verify
from service.reconcile.hourly import reconcile_hourly
from service.reconcile.run import Wish, part_of_storage, reconcile
from service.resources import Resources
from service.storage import objects
from tests.places import chunks

DAY_AGO = datetime.now(UTC) - timedelta(days=1)
WEEK_AGO = datetime.now(UTC) - timedelta(days=7)
DAMAGED = {"sha256": "00" * 32, "expected_size": 7}
Found = tuple[str, str, int | None, str | None]


def found(kind: str, key: object = "", email_id: int | None = None, repair: str | None = None) -> Found:
    return kind, str(key), email_id, repair


@dataclass(frozen=True)
class Runs:
    """Puts runs on record, one after the other, with what they found and kept, and with counts of more."""

    database: asyncpg.Connection

    async def add(
        self,
        *findings: Found,
        more: dict[str, int] | None = None,
        detail: dict[str, Any] | None = None,
        **columns: Any,
    ) -> int:
        counts: dict[str, int] = dict(more or {})
        repaired: dict[str, int] = {}
        for kind, _, _, repair in findings:
            counts[kind] = counts.get(kind, 0) + 1
            if repair:
                repaired[kind] = repaired.get(kind, 0) + 1
        values = {
            "kind": "reconcile",
            "fix": "nothing",
            "actor": "ada (tests)",
            "targets": "mongodb",
            **columns,
        }
        values |= {"counts": json.dumps(counts), "repaired": json.dumps(repaired)}
        names, places = ", ".join(values), ", ".join(f"${place}" for place in range(1, len(values) + 1))
        run_id = await self.database.fetchval(
            f"INSERT INTO reconciliations ({names}) VALUES ({places}) RETURNING id", *values.values()
        )
        await self.database.executemany(
            "INSERT INTO reconciliation_findings (reconciliation_id, kind, key, email_id, repair, detail)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            [(run_id, *each, json.dumps(detail or {})) for each in findings],
        )
        await self.database.execute(
            "UPDATE reconciliations SET finished_at = now(), status = CASE status WHEN 'running' THEN 'done' ELSE status END"
            " WHERE id = $1",
            run_id,
        )
        return int(run_id)

    async def hour(self, *findings: Found, part: int = 0, **more: Any) -> int:
        return await self.add(*findings, part=part, since=DAY_AGO, **more)


@pytest.fixture
async def runs(database: asyncpg.Connection) -> Runs:
    """Put e-mails 1 to 3 on record, which came a month, three days and an hour ago."""
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, received_at)"
        " SELECT '1', 'completed', now() - ago::interval FROM unnest(ARRAY['30 days', '3 days', '1 hour']) AS ago"
    )
    return Runs(database)


async def look(res: Resources) -> Differences:
    async with connect(res.engine) as conn:
        return await open_differences(conn)


async def opened(res: Resources) -> dict[str, int]:
    return {kind: number for kind, number in (await look(res)).by_kind.items() if number}


async def test_an_hour_that_did_not_look_there_closes_nothing_and_a_whole_run_does(
    res: Resources, runs: Runs
) -> None:
    await runs.add(found("ahead", "old", 2), found("extra", "nobody's"))
    await runs.hour()
    later = await opened(res)
    await runs.add()

    assert later == {"ahead": 1, "extra": 1}
    assert await opened(res) == {}


async def test_an_hour_closes_what_came_within_it_and_whatever_lies_between_its_e_mails(
    res: Resources, runs: Runs
) -> None:
    await runs.hour(found("ahead", "new", 3))
    await runs.hour(found("extra", "between"), detail={"email_id": "3"})
    await runs.hour(found("extra", "before"), detail={"email_id": "2"})
    await runs.add(found("extra", "behind all"), since=DAY_AGO, detail={"email_id": "4"})
    first = await opened(res)
    await runs.hour()

    assert first == {"extra": 2}
    assert await opened(res) == {"extra": 2}


async def test_a_run_by_hand_that_put_it_right_closes_it(res: Resources, runs: Runs) -> None:
    await runs.hour(*(found("missing", number, 3) for number in range(23)))
    before = await opened(res)
    await runs.add(*(found("missing", number, 3, "synced again") for number in range(23)), since=WEEK_AGO)

    assert before == {"missing": 23}
    assert await opened(res) == {}


async def test_a_repair_counts_by_its_key_whatever_became_of_the_run(res: Resources, runs: Runs) -> None:
    await runs.add(found("ahead", "a", 1), found("ahead", "b", 1), found("object_missing", "a", 1))
    await runs.add(found("ahead", "a", 1, "removed"), found("ahead", "b", 1), status="cancelled", fix="all")

    assert await opened(res) == {"ahead": 1, "object_missing": 1}


async def test_what_is_found_again_counts_once_by_its_newest_word(res: Resources, runs: Runs) -> None:
    await runs.add(found("missing", "a", 1), found("object_missing", "o", 1), detail=DAMAGED)
    await runs.hour(found("object_missing", "o", 1), detail=DAMAGED)
    await runs.add(found("different", "a", 1), since=WEEK_AGO)  # its id is new, though it came before

    assert await opened(res) == {"different": 1, "object_missing": 1}


async def test_of_the_storage_an_hour_closes_its_part(res: Resources, runs: Runs) -> None:
    """Each range of keys is of the part that looks at it."""
    keys = {f"{number:02x}{'0' * 62}" for number in range(256)}
    for each in keys:
        await runs.hour(found("object_missing", each, 3), part=30, detail={"sha256": each})
    for part in range(23):
        await runs.hour(part=part)
    left = await opened(res)
    await runs.hour(part=23)

    assert left == {"object_missing": len(part_of_storage(23))}
    assert await opened(res) == {}


async def test_since_looks_at_files_of_what_came_since_then(res: Resources, runs: Runs) -> None:
    await runs.hour(found("object_missing", "old", 1), found("object_missing", "newer", 2), part=5)
    await runs.add(since=WEEK_AGO)
    by_comparison = await opened(res)
    await runs.add(kind="verify", since=datetime(2020, 1, 1, tzinfo=UTC))

    assert by_comparison == {"object_missing": 1}
    assert await opened(res) == {}


async def test_who_has_no_target_has_not_looked_there_unless_it_was_taken_away(
    res: Resources, runs: Runs
) -> None:
    await runs.add(found("ahead", "old", 1), found("object_missing", "o", 1), detail=DAMAGED)
    await runs.add(targets=None)
    await runs.add(targets=None, since=datetime(2020, 1, 1, tzinfo=UTC))
    by_hand = await opened(res)
    await runs.hour(targets=None)

    assert by_hand == {"ahead": 1}
    assert await opened(res) == {}


async def test_bytes_that_are_wrong_are_seen_by_a_verification_alone(res: Resources, runs: Runs) -> None:
    await runs.add(found("object_damaged", "o", 1), kind="verify", detail={**DAMAGED, "size": 7})
    await runs.add(
        found("object_damaged", "p", 1), kind="verify", since=WEEK_AGO, detail={**DAMAGED, "size": 8}
    )
    both = await opened(res)
    await runs.add()
    await runs.add(kind="verify", since=WEEK_AGO)
    one = await opened(res)
    await runs.add(kind="verify")

    assert both == {"object_damaged": 2}
    assert one == {"object_damaged": 1}
    assert await opened(res) == {}


async def test_a_run_has_not_looked_at_what_was_found_after_it_began(res: Resources, runs: Runs) -> None:
    """A verification takes hours, and an hour comes and goes beside it."""
    long_ago = datetime.now(UTC) - timedelta(hours=9)
    await runs.add(found("object_missing", "o", 1), part=5, detail=DAMAGED)
    await runs.add(kind="verify", started_at=long_ago)
    late = await opened(res)
    await runs.hour()
    await runs.add(found("object_missing", "p", 1), kind="verify", started_at=long_ago, detail=DAMAGED)

    assert late == {"object_missing": 1}
    assert await opened(res) == {"object_missing": 1}


@pytest.mark.parametrize(
    ("closing", "number"), [({}, 0), ({"since": WEEK_AGO}, 0), ({"since": DAY_AGO, "part": 0}, 3_000)]
)
async def test_what_was_not_kept_counts_until_all_is_looked_at_that_was(
    res: Resources, runs: Runs, closing: dict[str, Any], number: int
) -> None:
    since = WEEK_AGO + timedelta(hours=1)
    await runs.add(found("missing", "a", 3), more={"missing": 2_000}, since=since)
    await runs.add(found("missing", "a", 3), more={"missing": 2_999}, since=since)
    before = await look(res)
    await runs.add(**closing)
    after = await look(res)

    assert (before.total, before.may_be_more) == (3_000, True)
    # The one that was kept is closed for itself.
    assert (after.total, after.may_be_more) == (max(0, number - 1), number > 0)


async def test_what_was_kept_is_all_there_is_and_of_runs_that_broke_off_nothing_is_known(
    res: Resources, runs: Runs
) -> None:
    await runs.add(found("missing", "a", 1), found("foreign", "b"), found("unclaimed", "c"))
    await runs.add(found("missing", "d", 1), status="failed")

    assert await look(res) == Differences(
        {kind: int(kind == "missing") for kind in (await look(res)).by_kind},
        may_be_more=False,
        compared_at=(await look(res)).compared_at,
    )


def beginning(digits: str) -> bytes:
    """Make a content whose hash begins so."""
    numbers = (str(number).encode() for number in count())
    return next(content for content in numbers if sha256(content).hexdigest().startswith(digits))


async def test_runs_that_compare_are_understood(res: Resources, database: asyncpg.Connection) -> None:
    """With real runs: of three files two go, one of which comes back."""
    contents = [beginning(digits) for digits in ("00", "7f", "ff")]
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, received_at)"
        " VALUES ('1', 'completed', now() - interval '9 days')"
    )
    kept = [await objects.put(res.storage, chunks(content), None) for content in contents]
    await database.executemany(
        "INSERT INTO attachments (email_id, position, source_url, status, sha256, size, object_key)"
        " VALUES (1, $1, 'https://x.example/', 'stored', $2, $3, $4)",
        [(place, each.sha256, each.size, each.key) for place, each in enumerate(kept)],
    )

    await objects.remove(res.storage, kept[0].key)
    await objects.remove(res.storage, kept[2].key)
    await reconcile(res, Wish("ada (tests)"), lambda _share, _seen: None)
    by_whole = await opened(res)
    await objects.put(res.storage, chunks(contents[0]), None)
    await reconcile_hourly(res)  # the first part, in which it is there again
    by_hour = await opened(res)
    await verify.begin(res, actor="ada (tests)", rate=1000, since=None, fix=False)
    while await verify.step(res):
        pass

    assert by_whole == {"object_missing": 2}
    assert by_hour == {"object_missing": 1}
    assert await opened(res) == {"object_missing": 1}


async def test_a_run_under_way_compares_while_it_gets_on(res: Resources, runs: Runs) -> None:
    async def ages() -> int | None:
        at = (await look(res)).compared_at
        return None if at is None else round((datetime.now(UTC) - at) / timedelta(hours=1))

    never = await ages()
    await runs.add()
    await runs.database.execute("UPDATE reconciliations SET finished_at = now() - interval '9 h'")
    long_ago = await ages()
    await runs.database.execute(
        "INSERT INTO reconciliations (kind, actor, fix, started_at, seen_at)"
        " VALUES ('reconcile', 'ada', 'nothing', now() - interval '8 h', now() - interval '2 h')"
    )
    sees_nothing = await ages()
    await runs.database.execute("UPDATE reconciliations SET emails = 1000 WHERE status = 'running'")

    assert (never, long_ago, sees_nothing) == (None, 9, 9)
    assert await ages() == 2
