"""The ledger: what Zendesk lists is counted against the e-mails here, in numbers that agree."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import text

from service.config.settings import Settings
from service.errors import Rejected
from service.operate.dismiss import dismiss
from service.postgres.engine import close_engine, create_engine
from service.queries import completeness, days
from service.queries.days import ListName
from service.queries.remarks import get_remarks
from service.queries.source import Ledger, SourceFilter, get_ledger
from service.resources import Resources
from tests.conftest import EMPTY
from tests.support.rows import add
from tests.support.source import (
    ACCOUNT_ID,
    account_key,
    add_source,
    asking,
    keep,
    list_comment,
    noon,
    refuse,
    say,
    suspend,
    today,
)

STATES: tuple[ListName, ...] = ("kept", "in_work", "failed", "dismissed", "missing")
LISTS: tuple[ListName, ...] = ("in_zendesk", *STATES)


DAY = timedelta(days=1)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return asking(settings)


@pytest.fixture
def account(settings: Settings) -> str:
    return account_key(settings)


async def read(res: Resources, **wanted: Any) -> Ledger:
    return await get_ledger(res.engine, res.settings, SourceFilter.model_validate(wanted))


# ── the days


async def test_each_comment_of_a_day_is_in_exactly_one_state(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    day = await today(database) - timedelta(days=1)
    await add_source(database, account)
    for number, status in enumerate(("completed", "completed", "queued", "failed"), 1):
        await keep(database, "1", str(number), status)
    for number in range(1, 6):
        await list_comment(database, account, "1", str(number), noon(day))
    await suspend(database, account, 1, created_at=noon(day))
    await suspend(database, account, 2, created_at=noon(day), gone_at=noon(day))

    [_, found] = (await read(res)).days[:2]

    assert {name: getattr(found, name) for name in (*LISTS, "suspended")} == {
        "in_zendesk": 5,
        "kept": 2,
        "in_work": 1,
        "failed": 1,
        "dismissed": 0,
        "missing": 1,
        "suspended": 1,
    }
    assert (found.day, found.searched, found.is_complete) == (day, "whole", False)


@pytest.mark.parametrize(
    ("place", "searched"), [(0, "part"), (1, "whole"), (2, "whole"), (3, "part"), (4, "not")]
)
async def test_a_day_is_complete_only_if_all_of_it_was_searched(
    res: Resources, database: asyncpg.Connection, account: str, place: int, searched: str
) -> None:
    day = await today(database)
    await add_source(
        database,
        account,
        complete_since=noon(day - timedelta(days=3)),
        watermark=noon(day) - timedelta(hours=9),
    )
    wanted = day - timedelta(days=place)
    await list_comment(database, account, "1", "1", noon(wanted))
    await keep(database, "1", "1")

    [found] = (await read(res, day=wanted.isoformat())).days

    assert (found.kept, found.searched, found.is_complete) == (1, searched, searched == "whole")


async def test_a_quiet_day_was_searched_although_zendesk_listed_nothing(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    """The watermark stays at the newest event; the last search that found all has seen that nothing came since."""
    day = await today(database)
    await add_source(database, account, watermark=noon(day - timedelta(days=3)))
    times = dict.fromkeys(("since", "started_at", "finished_at"), noon(day))
    await add(database, "backfills", account=account, kind="current", leg="events", **times)
    await say(database, await keep(database, "1", "1", received_at=noon(day - timedelta(days=1))), "1")

    found = (await read(res)).days[:4]

    assert [each.searched for each in found] == ["part", "whole", "whole", "whole"]
    assert [each.unlisted for each in found] == [0, 1, 0, 0], "an e-mail that Zendesk does not list is told"


ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),  # the ticket
        st.integers(0, 4),  # the comment
        st.integers(0, 3 * 24 - 1),  # hours ago
        st.booleans(),  # Zendesk lists it
        st.sampled_from([None, "received", "queued", "processing", "completed", "failed"]),
        st.sampled_from([ACCOUNT_ID, None, "another account"]),
        st.booleans(),  # it is identified
    ),
    max_size=25,
    unique_by=lambda row: row[:2],
)


@given(rows=ROWS, number=st.sampled_from([ACCOUNT_ID, None]))
@pytest.mark.parametrize("base", [datetime(2026, 3, 29, 23, 59, 59, 999999, UTC)])
async def test_numbers_agree_whatever_is_listed_and_kept(
    database_url: str, base: datetime, rows: Any, number: str | None
) -> None:
    """The time zone of the session changes nothing: these days are those of a change of the clocks."""
    database = await asyncpg.connect(database_url)
    engine = create_engine(database_url, pool_size=1, seconds=30)
    account = "acme.zendesk.com"
    expected: dict[date, dict[str, int]] = {}
    try:
        await database.execute(EMPTY)
        await add_source(database, account, account_id=number)
        for ticket, comment, hours, is_listed, status, account_id, identified in rows:
            at = base - timedelta(hours=hours)
            if status:
                await keep(
                    database, f"t{ticket}", f"{comment}", status, account_id=account_id, identified=identified
                )
            if not is_listed:
                continue
            await list_comment(database, account, f"t{ticket}", f"{comment}", at)
            is_ours = status is not None and (account_id is None or account_id == number)
            state = {"completed": "kept", "failed": "failed"}.get(str(status), "in_work")
            counts = expected.setdefault(at.date(), dict.fromkeys(STATES, 0))
            counts[state if is_ours else "missing"] += 1
        wanted = [base.date() - timedelta(days=place) for place in range(4)]
        async with engine.connect() as conn:
            await conn.execute(text("SET TimeZone = 'Europe/Berlin'"))
            key = days.AccountKey(account, number, None, None)
            found = await days.count_days(conn, key, wanted)
            lists = {
                (day, name): (await days.list_day(conn, key, day, name)).emails
                for day in wanted
                for name in LISTS
            }
    finally:
        await close_engine(engine)
        await database.close()

    for view in found:
        counts = {name: getattr(view, name) for name in STATES}
        assert counts == expected.get(view.day, dict.fromkeys(STATES, 0))
        assert view.in_zendesk == sum(counts.values())
        assert {name: len(lists[view.day, name]) for name in STATES} == counts
        assert len(lists[view.day, "in_zendesk"]) == view.in_zendesk


async def test_an_email_that_zendesk_does_not_list_is_unlisted(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    """Neither one that came after the search, nor one that may be no e-mail, nor one before the first search."""
    day = await today(database) - timedelta(days=1)
    await add_source(database, account)
    await say(database, await keep(database, "1", "1", received_at=noon(day)), "1")
    await keep(database, "1", "2", received_at=noon(day))
    await say(database, await keep(database, "1", "3"), "3")
    await say(database, await keep(database, "1", "4", received_at=noon(day - timedelta(days=60))), "4")
    await say(database, await keep(database, "1", "5", received_at=noon(day)), "5")
    await list_comment(database, account, "1", "5", noon(day - timedelta(days=1)))

    found = await read(res, day=day.isoformat(), list="unlisted")

    assert [view.unlisted for view in found.days] == [1]
    assert found.emails is not None
    assert [(email.comment_id, email.state) for email in found.emails] == [("1", "unlisted")]


async def test_pages_of_days_reach_each_day_once_and_skip_long_gaps(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    newest = await today(database)
    places = [0, 3, 13, 14, 30, 400, 9_000]
    await add_source(database, account, complete_since=None)
    for place in places:
        await list_comment(database, account, "1", str(place), noon(newest - timedelta(days=place)))

    seen: list[date] = []
    before, pages = None, 0
    while True:
        page = await read(res, **({"before": before} if before else {}))
        pages += 1
        seen += [view.day for view in page.days if view.in_zendesk]
        assert len(page.days) <= days.PAGE_DAYS
        if page.next_before is None:
            break
        before = page.next_before.isoformat()

    assert seen == [newest - timedelta(days=place) for place in places]
    assert pages == 5


async def test_a_long_list_continues_behind_its_cursor_also_within_one_second(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    day = await today(database)
    await add_source(database, account)
    await database.execute(
        "INSERT INTO source_emails (account, ticket_id, comment_id, created_at)"
        " SELECT $1, (i % 7)::text, i::text, $2 FROM generate_series(1, 250) AS i",
        account,
        noon(day),
    )

    seen: list[str] = []
    cursor = None
    while True:
        page = await read(res, day=day.isoformat(), list="missing", cursor=cursor)
        assert page.emails is not None
        seen += [email.comment_id for email in page.emails]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert sorted(map(int, seen)) == [*range(1, 251)]


@pytest.mark.parametrize("cursor", ["x", "1-2", "-99999999999999999-1-1", "1-a'b-1", "1--1", "1-1-1-1"])
async def test_a_cursor_of_no_page_is_refused(
    res: Resources, database: asyncpg.Connection, account: str, cursor: str
) -> None:
    await add_source(database, account)

    with pytest.raises((ValidationError, Rejected), match="cursor"):
        await read(res, day="2026-01-01", cursor=cursor)
    assert (await read(res, day="2026-01-01", cursor="99999999999999999-1-1")).emails == []


@pytest.mark.parametrize("day", ["0001-01-01", "1969-12-31", "9999-12-31"])
async def test_any_day_of_the_calendar_has_an_answer(
    res: Resources, database: asyncpg.Connection, account: str, day: str
) -> None:
    await add_source(database, account)

    assert [view.in_zendesk for view in (await read(res, day=day)).days] == [0]
    assert (await read(res, before=day)).next_before is None


# ── the verdict


async def test_all_is_kept(res: Resources, database: asyncpg.Connection, account: str) -> None:
    await add_source(database, account, complete_since=datetime(2024, 5, 3, 8, tzinfo=UTC))
    await list_comment(database, account, "1", "1", noon(await today(database)))
    await keep(database, "1", "1")

    found = await read(res)

    assert found.state == "complete"
    assert found.verdict.startswith("Every e-mail that Zendesk has since 3 May 2024 is kept. Checked 1 min ")


@pytest.mark.parametrize(
    ("statuses", "state", "expected"),
    [
        ((None,), "incomplete", "1 e-mail that Zendesk has is missing here."),
        ((None, None, "failed"), "incomplete", "2 e-mails that Zendesk has are missing here, and 1 failed."),
        (
            ("failed", "queued"),
            "incomplete",
            "All e-mails that Zendesk has since 3 May 2024 are here, but 1 failed.",
        ),
        (
            ("queued", "completed"),
            "in_work",
            "All e-mails that Zendesk has since 3 May 2024 are here; 1 is in work.",
        ),
    ],
)
async def test_what_is_not_kept_is_said(
    res: Resources,
    database: asyncpg.Connection,
    account: str,
    statuses: tuple[str | None, ...],
    state: str,
    expected: str,
) -> None:
    await add_source(database, account, complete_since=datetime(2024, 5, 3, 8, tzinfo=UTC))
    for number, status in enumerate(statuses):
        await list_comment(database, account, "1", str(number), noon(await today(database)))
        if status:
            await keep(database, "1", str(number), status)

    found = await read(res)

    assert (found.state, found.verdict.partition(" Checked")[0]) == (state, expected)


async def test_a_ticket_that_could_not_be_read_makes_no_day_of_it_complete(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    """Its e-mails since it was refused are not known; those of an account of another name are."""
    now = noon(await today(database))
    await add_source(database, account)
    for ago in range(5):
        await list_comment(database, account, "1", str(ago), now - ago * DAY)
        await keep(database, "1", str(ago))
    for name, ticket in ((account, "77"), ("other.zendesk.com", "78")):
        await refuse(database, name, ticket, now - 3 * DAY, refused_last_at=now - DAY)

    found = await read(res)
    (view,) = [each for each in found.accounts if each.account == account]
    days = [(each.unread, each.is_complete) for each in found.days if each.account == account]

    assert (found.state, found.unread_tickets) == ("incomplete", 1)
    assert found.verdict.startswith(
        "1 ticket in Zendesk could not be read: Zendesk refuses them to the user of the credentials. Checked "
    )
    assert days[1:5] == [(1, False), (1, False), (1, False), (0, True)]
    assert [(each.ticket_id, each.error_code) for each in view.refused] == [("77", "forbidden")]
    assert (
        "1 ticket could not be read, such as 77: give the user of the credentials access to them, then"
        in " ".join(view.sentences)
    )


async def test_the_second_behind_which_completeness_begins_is_said(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    """Only as long as it is the reason: a search that found all before it ends that."""
    behind = datetime(2024, 5, 3, 8, 30, 1, tzinfo=UTC)
    await add_source(database, account, complete_since=behind, left_out=behind)
    found = await read(res)
    await database.execute("UPDATE sources SET complete_since = complete_since - interval '1 day'")
    later = await read(res)

    assert found.accounts[0].left_out == behind - timedelta(seconds=1)
    assert "Completeness begins behind 2024-05-03 08:30:00 UTC: that second was left out." in found.verdict
    assert "Look in Zendesk for tickets that changed in it" in " ".join(found.accounts[0].sentences)
    assert (later.accounts[0].left_out, "left out" in later.verdict) == (None, False)


async def test_a_time_that_was_not_searched_is_said(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    """The first search begins before the account is on record: completeness that begins later has lost a time."""
    lost = datetime(2024, 5, 3, 8, 30, 1, tzinfo=UTC)
    await add_source(database, account, complete_since=lost, began_at=lost - timedelta(days=300))
    found = await read(res)
    await database.execute("UPDATE sources SET complete_since = began_at - interval '7 days'")
    later = await read(res)

    assert (found.accounts[0].unsearched_before, later.accounts[0].unsearched_before) == (lost, None)
    assert "Completeness begins at 2024-05-03 08:30:01 UTC: a time before it was not searched" in " ".join(
        found.accounts[0].sentences
    )
    assert "not searched" not in " ".join(later.accounts[0].sentences)


async def test_an_account_that_was_not_asked_is_unknown(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    before = (await read(res)).verdict
    await add_source(database, account, checked_at=None, complete_since=None, watermark=None)
    empty = (await read(res)).verdict
    await add(
        database, "backfills", account=account, kind="current", since=datetime.now(UTC), leg="events", found=7
    )
    begun = await read(res)
    await database.execute("UPDATE sources SET error_code = 'forbidden'")
    failing = (await read(res)).verdict

    assert before == empty == "Zendesk was not asked yet."
    assert begun.verdict == "The first search has found 7 e-mails so far."
    assert begun.state == "unknown"
    assert failing == "The first search has found 7 e-mails so far. The first search fails: forbidden."


async def test_an_old_search_says_nothing_of_now(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    old = datetime.now(UTC) - timedelta(hours=2)
    await add_source(database, account, checked_at=old, complete_since=None, error_code="http_503")

    found = await read(res)

    assert found.state == "unknown"
    assert found.verdict == (
        "Every e-mail that Zendesk had then is kept. Zendesk was last asked 2 h ago."
        " Since then the search fails: http_503."
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"backfill_minutes": 0}, "BACKFILL_MINUTES is 0"),
        (
            {"zendesk_oauth_client_id": None, "zendesk_oauth_client_secret": None},
            "there are no credentials for Zendesk's API",
        ),
    ],
)
async def test_a_back_fill_that_is_off_knows_nothing(
    res: Resources, database: asyncpg.Connection, account: str, changes: dict[str, Any], reason: str
) -> None:
    await add_source(database, account)

    found = await get_ledger(res.engine, res.settings.model_copy(update=changes))

    assert (found.state, found.verdict) == ("unknown", f"Back-fill is off: {reason}.")


async def test_only_what_was_compared_is_promised(
    res: Resources, database: asyncpg.Connection, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first comparison of all, the sentence begins at the oldest comment that was compared."""
    day = await today(database)
    await add_source(database, account)
    await database.execute(
        "INSERT INTO source_emails (account, ticket_id, comment_id, created_at)"
        " SELECT $1, i::text, i::text, $2 FROM generate_series(1, $3) AS i",
        account,
        noon(day),
        completeness.COMPARED,
    )
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, comment_id, identified, account_id, processing_status)"
        " SELECT i::text, i::text, true, $1, 'completed' FROM generate_series(1, $2) AS i",
        ACCOUNT_ID,
        completeness.COMPARED,
    )
    await list_comment(database, account, "1", "old", noon(day - timedelta(days=9)))

    before = await read(res)
    await database.execute(
        """UPDATE sources SET proof = '{"at": "", "missing": [["1", "old"], ["5", "5"], 3, ["x"]]}'"""
    )
    after = await read(res)

    assert (before.state, before.since) == ("complete", noon(day))
    assert (after.state, after.missing) == ("incomplete", 1)


async def test_an_email_that_lacks_files_is_not_kept(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    """Neither in the days nor in the verdict, also where no look has identified it."""
    day = await today(database)
    await add_source(database, account)
    for number in range(1, 4):
        await list_comment(database, account, "1", str(number), noon(day))
        lacks = {"error_code": "not_captured"} if number > 1 else {}
        await keep(database, "1", str(number), identified=number < 3, **lacks)

    found = await read(res, day=day.isoformat(), list="failed")

    assert [(each.kept, each.failed, each.is_complete) for each in found.days] == [(1, 2, False)]
    assert found.emails is not None
    assert [email.comment_id for email in found.emails] == ["2", "3"]
    assert (found.state, found.failed) == ("incomplete", 2)


async def test_what_a_person_dismissed_is_not_missed(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    await add_source(database, account, complete_since=datetime(2024, 5, 3, 8, tzinfo=UTC))
    yesterday = await today(database) - timedelta(days=1)
    await list_comment(database, account, "1", "1", noon(yesterday))
    await keep(database, "1", "1", "failed")
    await dismiss(res, await database.fetchval("SELECT id FROM incoming_emails"), "ada", "Redacted.")

    found = await read(res)
    [day] = (await read(res, day=yesterday.isoformat())).days
    listed = (await read(res, day=yesterday.isoformat(), list="dismissed")).emails or ()

    assert (found.state, found.failed) == ("complete", 0)
    assert (day.in_zendesk, day.failed, day.dismissed, day.is_complete) == (1, 0, 1, True)
    assert [each.state for each in listed] == ["dismissed"]
    assert found.verdict.startswith("Every e-mail that Zendesk has since 3 May 2024 is kept or dismissed.")


@pytest.mark.parametrize(
    ("proof", "missing", "unknown"),
    [
        ({"missing_count": 7, "missing": [["1", "1"]]}, 6, 0),
        ({"missing_count": 1, "missing": [["1", "1"]]}, 0, 0),
        ({"search": {"without_count": 5, "without": ["1", "2"]}}, 0, 4),
        ({"missing_count": "x", "search": {"without_count": None}}, 0, 0),
    ],
)
async def test_what_was_counted_and_not_kept_is_missing_too(
    res: Resources,
    database: asyncpg.Connection,
    account: str,
    proof: dict[str, Any],
    missing: int,
    unknown: int,
) -> None:
    await add_source(database, account, proof={"at": "", **proof})
    await list_comment(database, account, "1", "1", noon(await today(database)))
    await keep(database, "1", "1")

    found = await read(res)

    assert (found.missing, found.unknown_tickets) == (missing, unknown)
    assert found.state == ("incomplete" if missing or unknown else "complete")


async def test_a_count_that_stopped_promises_nothing(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    """E-mails that Zendesk does not list fill the count, and hide those that it does."""
    await add_source(database, account)
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status)"
        " SELECT 'other', 'queued' FROM generate_series(1, $1)",
        completeness.COUNT_CAP,
    )

    found = await read(res)
    async with res.engine.connect() as conn:
        verdict = await completeness.completeness_of(conn, res.settings)

    assert not verdict.needs_attention
    assert found.state == "unknown"
    assert "too many are not completed to look at each." in found.verdict


# ── the state of the search, and what else is shown


async def test_state_of_the_search(res: Resources, database: asyncpg.Connection, account: str) -> None:
    now = datetime.now(UTC)
    await add_source(database, account, leg="lists", leg_reason="forbidden")
    await add(
        database,
        "backfills",
        account=account,
        kind="history",
        since=now - timedelta(days=10),
        until=now,
        reached=now - timedelta(days=5),
        leg="events",
        found=10,
        added=3,
        calls=2,
    )
    await add(
        database,
        "connections",
        account=account,
        endpoint="https://x.example",
        webhook_id="w",
        trigger_id="t",
        condition="mail",
        drift='[{"code": "inactive", "text": "The webhook is inactive."}, 7]',
    )

    [view] = (await read(res)).accounts

    assert view.lag_seconds is not None
    assert 60 <= view.lag_seconds < 600
    assert [run.progress for run in view.backfills] == [pytest.approx(0.5)]
    assert view.connection is not None
    assert [each.code for each in view.connection.drift] == ["inactive"]
    said = " ".join(view.sentences)
    assert "is searched by its lists of changed tickets, since the export failed: forbidden." in said
    assert "The search of its history is running, 50%: 10 e-mails found, 3 new, 2 calls." in said
    assert "`holdfast connect --repair`" in said


async def test_only_lost_webhooks_are_counted_as_lost(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    now = datetime.now(UTC)

    async def found(comment: str, ago: timedelta, **more: Any) -> int:
        received = {"received_at": now - min(ago, timedelta(hours=1)), **more}
        return await keep(database, "1", comment, **{"origin": "backfill", "sent_at": now - ago, **received})

    await add_source(database, account)
    await keep(database, "1", "0", received_at=now - timedelta(days=3), raw_body=b"{}")  # the first webhook
    old = await found("1", timedelta(days=2), received_at=now - timedelta(days=2))
    new = await found("2", timedelta(hours=1), origin="lookup")
    await found("3", timedelta(days=9))  # from before the first webhook
    await found("4", timedelta())  # its webhook may still come
    late = await found("5", timedelta(hours=1))
    await add(database, "announcements", email_id=late, idempotency_key="x", raw_body=b"{}", raw_headers="[]")
    await found("6", timedelta(hours=1), raw_body=b"{}")

    [view] = (await read(res)).accounts
    remarks = await get_remarks(res.engine)

    assert (view.found_without_webhook, view.found_without_webhook_24h) == (2, 1)
    assert [lost.email_id for lost in remarks.lost] == [new, old]


async def test_suspended_emails_and_changes_are_shown_newest_first(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    day = await today(database)
    await add_source(database, account)
    for number in range(3):
        await suspend(
            database,
            account,
            number,
            created_at=noon(day - timedelta(days=number)),
            files='[{"file_name": "a"}]' if number else '{"odd": 1}',
            text="x" * 5_000,
        )
    await suspend(database, account, 9)
    changed = [await keep(database, "1", str(number), zendesk_state="redacted") for number in range(2)]

    remarks = await get_remarks(res.engine)
    [view] = (await read(res)).accounts

    assert [each.suspended_id for each in remarks.suspended] == ["0", "1", "2", "9"]
    assert [each.files for each in remarks.suspended] == [0, 1, 1, 0]
    assert {len(each.text) for each in remarks.suspended} == {300, 7}
    assert [each.email_id for each in remarks.changed] == changed[::-1]
    assert view.suspended_held == 4


async def test_an_unknown_account_has_no_days(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    await add_source(database, account)

    other = await read(res, day="2026-01-01", account="other.example")
    ours = await read(res, day="2026-01-01", account=account)

    assert (other.days, other.emails) == ([], [])
    assert [day.account for day in ours.days] == [account]
