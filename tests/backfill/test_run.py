"""The back-fill: every comment by e-mail that Zendesk has becomes an e-mail, once, however it is found."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from pydantic import SecretStr

from service.backfill import record, requests
from service.backfill.legs import Span
from service.backfill.record import History, Page, lease_lost
from service.backfill.run import account_of, step
from service.config.settings import Settings
from service.custody import receipts
from service.custody.removal import remove
from service.errors import Transient
from service.jobs.identity import identify
from service.local.zendesk.stand_in import Fault, Zendesk
from service.postgres.engine import connect, transaction
from service.resources import Resources, open_resources
from tests.conftest import Client, eventually, working
from tests.support.backfill import comments, last_run, make_due, search, source, steps, without_pause
from tests.support.files import PDF
from tests.support.rows import add
from tests.support.source import keep

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def ago(time: timedelta) -> datetime:
    return datetime.now(UTC) - time


async def test_an_e_mail_without_a_webhook_becomes_one(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    comment_id = zendesk.add_email(77, created_at=ago(HOUR))
    zendesk.add_comment(77, channel="web")

    await steps(res)
    email = await database.fetchrow("SELECT * FROM incoming_emails")
    listed = await database.fetchrow("SELECT * FROM source_emails")

    assert email is not None
    assert listed is not None
    assert await comments(database) == [str(comment_id)]
    assert (email["origin"], email["identified"], email["account_id"]) == ("backfill", True, "21978514")
    assert email["processing_status"] in {"received", "queued"}
    assert email["sent_at"] == listed["created_at"]
    assert (listed["ticket_id"], listed["comment_id"]) == ("77", str(comment_id))


async def test_a_search_says_from_when_until_when_all_is_on_record(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.add_email(77, created_at=ago(2 * HOUR))
    zendesk.add_email(78, created_at=ago(HOUR))

    await steps(res)
    found = await source(database)
    run = await last_run(database)

    assert timedelta(days=6.9) < datetime.now(UTC) - found["complete_since"] < timedelta(days=7.1)
    assert abs(found["watermark"] - ago(HOUR)) < timedelta(seconds=5)
    assert found["checked_at"] is not None
    assert timedelta(minutes=4) < found["due_at"] - datetime.now(UTC) <= timedelta(minutes=5)
    assert (run["kind"], run["found"], run["added"], run["error_code"]) == ("current", 2, 2, None)


async def test_a_second_search_begins_before_the_end_of_the_first_and_adds_nothing_twice(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Comments of the same second come later, and in any order."""
    noon = ago(HOUR)
    known = [zendesk.add_email(77, created_at=noon) for _ in range(2)]
    await steps(res)
    late = [
        zendesk.add_email(78, created_at=noon),
        zendesk.add_email(79, created_at=noon - timedelta(seconds=90)),
    ]

    await make_due(database)
    await steps(res)

    assert await comments(database) == sorted(map(str, known + late), key=int)
    assert (await last_run(database))["added"] == 2


async def test_an_announced_e_mail_is_not_found_again(
    res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    comment_id = zendesk.add_email(77)
    await client.send(zendesk.announcement(77, comment_id))

    await steps(res)

    assert await comments(database) == [str(comment_id)]
    assert (await source(database))["account_id"] == "21978514"


@pytest.mark.parametrize("names_messages", [True, False])
async def test_a_webhook_after_the_search_is_the_same_e_mail(
    res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection, *, names_messages: bool
) -> None:
    """Only webhooks and notes about e-mails tell the number of the account."""
    zendesk.state.listings.names_messages = names_messages
    comment_id = zendesk.add_email(77)
    await steps(res)
    known = (await source(database))["account_id"]

    await client.send(zendesk.announcement(77, comment_id))
    await make_due(database)
    await steps(res)
    await res.run(lambda conn: identify(conn, 0, 100))
    email = await database.fetchrow("SELECT * FROM incoming_emails")
    requests_of_it = await database.fetchval("SELECT count(*) FROM announcements")

    assert known == ("21978514" if names_messages else None)
    assert await comments(database) == [str(comment_id)]
    assert email is not None
    assert (email["account_id"], email["identified"], email["origin"]) == ("21978514", True, "backfill")
    assert requests_of_it == 1


async def test_e_mails_that_were_found_without_the_account_get_it_later(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """A look-up that began before the account was known may add one afterwards; a running attempt keeps its e-mail."""
    zendesk.add_email(77)
    await steps(res)
    for lease in (None, datetime.now(UTC) + HOUR):
        status = "processing" if lease else "completed"
        await add(database, comment_id=status, origin="lookup", processing_status=status, lease_until=lease)
    await database.execute("UPDATE incoming_emails SET processing_status = 'failed' WHERE id = 1")
    await make_due(database, hourly=True)

    await steps(res)
    rows = await database.fetch("SELECT processing_status, account_id FROM incoming_emails ORDER BY id")

    assert [tuple(row) for row in rows] == [
        ("failed", "21978514"),
        ("completed", "21978514"),
        ("processing", None),
    ]


async def test_a_webhook_without_the_header_of_the_account_is_known_all_the_same(
    res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    comment_id = zendesk.add_email(77)
    await client.send(zendesk.announcement(77, comment_id), headers={"X-Zendesk-Account-Id": None})

    await steps(res)

    assert await comments(database) == [str(comment_id)]


async def test_a_later_webhook_without_the_header_of_the_account_is_merged(
    res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    comment_id = zendesk.add_email(77)
    await steps(res)
    await client.send(zendesk.announcement(77, comment_id), headers={"X-Zendesk-Account-Id": None})

    await make_due(database)
    await steps(res)
    await res.run(lambda conn: identify(conn, 0, 100))

    assert await comments(database) == [str(comment_id)]
    assert await database.fetchval("SELECT count(*) FROM announcements") == 1


async def test_a_worker_fetches_what_it_finds(
    settings: Settings, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Through the ordinary job: with its message and its files, inline images among them."""
    files = [zendesk.add_file("a.pdf", PDF), zendesk.add_file("b.pdf", PDF + b"b")]
    zendesk.add_email(77, subject="Kündigung", attachments=files[:1], inline=files[1:])

    async def completed() -> asyncpg.Record | None:
        return await database.fetchrow("SELECT * FROM incoming_emails WHERE processing_status = 'completed'")

    async with working(settings):
        email = await eventually(completed)

    stored = await database.fetch("SELECT file_name, status FROM attachments ORDER BY position")
    assert email["subject"] == "Kündigung"
    assert [tuple(row) for row in stored] == [("a.pdf", "stored"), ("b.pdf", "stored")]


async def test_a_dry_run_only_counts(
    res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    known = zendesk.add_email(77, created_at=ago(HOUR))
    await client.send(zendesk.announcement(77, known))
    zendesk.add_email(78, created_at=ago(HOUR))
    off = res.settings.model_copy(update={"backfill_minutes": 0})

    async with open_resources(off) as without:
        run_id = await requests.begin(without, History(ago(DAY), None, dry_run=True), "grace")
        await steps(without)
        state = await requests.state_of(without, run_id)

    assert (state.found, state.added, state.is_finished) == (2, 1, True)
    assert await comments(database) == [str(known)]
    assert await database.fetchval("SELECT count(*) FROM source_emails") == 0
    assert (await source(database))["watermark"] is None


async def test_a_search_of_history_finds_its_range_alone(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    made = [zendesk.add_email(70 + days, created_at=now - timedelta(days=days)) for days in (40, 30, 20, 10)]

    async with open_resources(settings.model_copy(update={"backfill_minutes": 0})) as res:
        wanted = History(now - timedelta(days=31), now - timedelta(days=15), dry_run=False)
        await requests.begin(res, wanted, "grace")
        await steps(res)

    assert await comments(database) == [str(made[1]), str(made[2])]


async def test_a_search_since_the_first_day_of_the_calendar_ends(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    made = zendesk.add_email(77, created_at=ago(HOUR))
    await requests.begin(res, History(datetime(1, 1, 1, tzinfo=UTC), None, dry_run=False), "grace")

    await search(res, database, zendesk)

    assert (await last_run(database))["error_code"] is None
    assert await comments(database) == [str(made)]


async def test_history_that_meets_the_known_range_makes_it_larger(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.add_email(77, created_at=ago(HOUR))
    await steps(res)
    known = await source(database)
    apart = History(ago(timedelta(days=90)), ago(timedelta(days=60)), dry_run=False)
    meeting = History(ago(timedelta(days=30)), None, dry_run=False)

    since = []
    for wanted in (apart, meeting):
        await requests.begin(res, wanted, "grace")
        await search(res, database, zendesk)
        since.append((await source(database))["complete_since"])

    assert since == [known["complete_since"], meeting.since]


async def test_history_of_an_account_without_recent_e_mails_meets_the_known_range(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The export's end is the last event: that is older than the range of the first search."""
    zendesk.add_email(77, created_at=ago(timedelta(days=20)))
    await steps(res)
    wanted = History(ago(timedelta(days=30)), None, dry_run=False)

    await requests.begin(res, wanted, "grace")
    await search(res, database, zendesk)

    assert (await source(database))["complete_since"] == wanted.since


async def test_the_same_wish_goes_on_with_the_open_run(res: Resources, database: asyncpg.Connection) -> None:
    wanted = History(ago(DAY), None, dry_run=False)

    first = await requests.begin(res, wanted, "grace")
    again = await requests.begin(res, wanted, "grace")
    other = await requests.begin(res, wanted._replace(dry_run=True), "grace")

    assert first == again != other


async def test_the_current_search_goes_before_history(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    await requests.begin(res, History(ago(DAY), None, dry_run=False), "grace")

    await step(res)
    kinds = await database.fetch("SELECT kind FROM backfills WHERE finished_at IS NOT NULL")

    assert [row["kind"] for row in kinds] == ["current"]


async def test_history_pauses_while_a_thousand_of_its_e_mails_wait(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    await steps(res)
    await requests.begin(res, History(ago(DAY), None, dry_run=False), "grace")
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, origin, due_at)"
        " SELECT '1', 'backfill', now() + interval '1 hour' FROM generate_series(1, 1001)"
    )

    paused = await steps(res)
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed' WHERE id = 1")
    await without_pause(database, zendesk)
    taken = await steps(res)

    assert (paused, taken) == (0, 1)


async def test_a_dry_run_waits_for_no_worker(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    await steps(res)
    await requests.begin(res, History(ago(DAY), None, dry_run=True), "grace")
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, origin, due_at)"
        " SELECT '1', 'backfill', now() + interval '1 hour' FROM generate_series(1, 1001)"
    )

    assert await steps(res) == 1


# ── leases, kills, errors


async def test_one_process_at_a_time_searches_an_account(
    res: Resources, database: asyncpg.Connection
) -> None:
    await res.run(lambda conn: record.begin_source(conn, account_of(res)))
    held = await res.run(lambda conn: record.take(conn, account_of(res), 5))

    taken = await step(res)
    other = await res.run(lambda conn: record.take(conn, account_of(res), 5))

    assert held is not None
    assert (taken, other) == (False, None)


async def test_a_process_that_lost_its_lease_saves_nothing(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The next one goes on from the same place."""
    zendesk.add_email(77)
    account = account_of(res)
    await res.run(lambda conn: record.begin_source(conn, account))
    held = await res.run(lambda conn: record.take(conn, account, 5))
    assert held is not None
    run = await res.run(lambda conn: record.next_run(conn, held, 5))
    assert run is not None
    await without_pause(database, zendesk)
    await steps(res)

    with pytest.raises(Transient) as refused:
        await res.run(
            lambda conn: record.save(
                conn,
                held,
                run,
                Page(None, {}, is_read=True),
                account_id=None,
                minutes=5,
                sync_status="pending",
            )
        )

    assert refused.value.code == lease_lost().code
    assert (await last_run(database))["found"] == 1


async def test_another_process_goes_on_after_a_kill(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """A killed process leaves its lease; the pages that it saved are not asked for again."""
    zendesk.state.listings.most_per_page = 2
    made = [
        zendesk.add_email(number, created_at=ago(HOUR) + timedelta(seconds=number)) for number in range(9)
    ]
    for _ in range(2):
        await step(res)
    await res.run(lambda conn: record.take(conn, account_of(res), 5))  # by the process that is killed
    calls = zendesk.state.calls["ticket_events"]

    while_held = await step(res)
    await without_pause(database, zendesk)
    await search(res, database, zendesk)

    assert not while_held
    assert await comments(database) == [str(number) for number in made]
    assert zendesk.state.calls["ticket_events"] - calls <= 7


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=200, body=b"[]"), Fault(status=503)])
async def test_no_error_moves_the_watermark(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, fault: Fault
) -> None:
    zendesk.add_email(76, created_at=ago(2 * HOUR))
    await steps(res)
    before = await source(database)
    comment_id = zendesk.add_email(77, created_at=ago(HOUR))
    await make_due(database)
    zendesk.state.api_faults.append(fault)

    await step(res)
    failed = await source(database)
    await search(res, database, zendesk)
    after = await source(database)

    assert (failed["watermark"], failed["checked_at"]) == (before["watermark"], before["checked_at"])
    assert failed["error_code"] in {"server_error", "bad_response"}
    assert failed["failed_at"] is not None
    assert failed["lease_until"] > datetime.now(UTC), "the next step is put off"
    assert (after["error_code"], after["failed_at"]) == (None, None)
    assert str(comment_id) in await comments(database)


async def test_a_search_ends_with_an_error_that_no_later_step_mends(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    wrong = {"zendesk_oauth_client_id": None, "zendesk_oauth_token": SecretStr("a-wrong-token-of-this-test")}
    async with open_resources(settings.model_copy(update=wrong)) as res:
        await steps(res)

    run, found = await last_run(database), await source(database)
    assert (run["error_code"], run["finished_at"] is not None) == ("unauthorized", True)
    assert (found["error_code"], found["checked_at"], found["watermark"]) == ("unauthorized", None, None)


async def test_the_rate_limit_of_the_export_pauses_the_search_and_no_other_call(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.exports_per_minute = 0
    zendesk.add_email(77)

    await steps(res)
    found = await source(database)
    await res.zendesk.get("/api/v2/tickets/77.json")

    assert found["error_code"] is None, "it is no error"
    assert found["lease_until"] > datetime.now(UTC)


async def test_at_most_eight_exports_a_minute_are_asked_for(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.most_per_page = 2
    for number in range(20):
        zendesk.add_email(number + 1, created_at=ago(HOUR) + timedelta(seconds=number))

    await steps(res)

    assert zendesk.state.calls["ticket_events"] == 8


async def test_without_credentials_nothing_is_searched(
    settings: Settings, database: asyncpg.Connection
) -> None:
    without = {"zendesk_oauth_client_id": None, "zendesk_oauth_client_secret": None}
    async with open_resources(settings.model_copy(update=without)) as res:
        assert not await step(res)


async def test_a_search_that_is_off_makes_no_call(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    async with open_resources(settings.model_copy(update={"backfill_minutes": 0})) as res:
        assert not await step(res)

    assert zendesk.state.api_calls == 0
    assert await database.fetchval("SELECT count(*) FROM sources") == 0


# ── size


async def test_a_long_history_costs_few_calls_though_it_is_interrupted(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Five thousand tickets: a call for each thousand audits, and one more for each process that is killed."""
    begin = ago(timedelta(days=60))
    for number in range(1, 5_001):
        zendesk.add_email(number, created_at=begin + timedelta(minutes=number))
    await steps(res)
    zendesk.state.calls.clear()
    await requests.begin(res, History(begin, ago(timedelta(days=10)), dry_run=False), "grace")
    kills = 0

    while (await last_run(database))["finished_at"] is None:
        await database.execute("UPDATE incoming_emails SET processing_status = 'completed'")
        await without_pause(database, zendesk)
        await res.run(lambda conn: record.take(conn, account_of(res), 5))  # and is killed
        kills += 1
        await without_pause(database, zendesk)
        await step(res)

    assert await database.fetchval("SELECT count(DISTINCT comment_id) FROM incoming_emails") == 5_000
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 5_000
    assert kills >= 5
    assert zendesk.state.calls["ticket_events"] <= 7
    assert sum(zendesk.state.calls.values()) <= 7


def test_a_span_has_no_lower_end_for_comments_that_were_imported() -> None:
    span = Span(ago(DAY), ago(HOUR), ago(timedelta(0)))

    assert span.has(ago(timedelta(days=900)))
    assert not span.has(ago(timedelta(minutes=1)))


async def test_a_webhook_corrects_the_account_that_a_copied_comment_named(
    res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    comment_id = zendesk.add_email(77)
    await steps(res)
    named = (await source(database))["account_id"]
    await client.send(zendesk.announcement(77, comment_id), headers={"X-Zendesk-Account-Id": "42"})
    await make_due(database)

    await search(res, database, zendesk)
    await res.run(lambda conn: identify(conn, 0, 100))

    found = await source(database)
    assert named != "42"
    assert (found["account_id"], found["account_is_told"]) == ("42", True)
    assert await comments(database) == [str(comment_id)]
    assert await database.fetchval("SELECT array_agg(account_id) FROM incoming_emails") == ["42"]


async def test_an_email_that_is_removed_while_its_comment_is_found_is_not_listed(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Listed behind the removal, it would be missing for ever; and of an erased one, its numbers would stay."""
    comment_id = zendesk.add_email(1, created_at=ago(HOUR))
    email_id = await keep(database, "1", str(comment_id), account_id=None)
    receipt_id = await res.run(lambda conn: receipts.begin(conn, "purge", "tests"))
    waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"

    async with connect(res.engine) as conn, transaction(conn):
        await remove(conn, [email_id], receipt_id)
        searching = asyncio.create_task(search(res, database, zendesk))
        await eventually(lambda: database.fetchval(waits))
    await searching

    assert await database.fetchval("SELECT count(*) FROM source_emails") == 0
    assert await comments(database) == []
