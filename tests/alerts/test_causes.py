"""Each cause of alerts is found, and normal operation causes none."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service.alerts import failures, record, workers
from service.alerts.causes import find_conditions
from service.alerts.condition import Condition, clean
from service.alerts.failures import MAX_HOSTS, FailedGroup
from service.alerts.record import Turn
from service.alerts.webhooks import MAX_CODES, MAX_READ
from service.config.settings import Settings
from service.connect.record import account_of
from service.formatting import duration
from service.postgres.engine import connect
from service.resources import Resources
from tests.support.rows import add, add_failed, add_quarantined, add_received
from tests.support.targets import synced_to

NOW = datetime(2025, 10, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
Find = Callable[..., Awaitable[dict[str, Condition]]]


@pytest.fixture
def find(res: Resources) -> Find:
    """Return a function that finds conditions, by cause and key; its last turn was some time ago."""

    async def find(settings: Settings = res.settings, **more: object) -> dict[str, Condition]:
        turn = Turn(**{**dict.fromkeys(Turn.__annotations__), "number": 1, "known_id": 10**6, **more})  # type: ignore[arg-type]
        async with connect(res.engine) as conn:
            found = await find_conditions(conn, settings, turn, await record.open_alerts(conn))
        return {f"{each.cause} {each.key}".strip(): each for each in found}

    return find


async def test_normal_operation_causes_no_alert(find: Find, database: asyncpg.Connection) -> None:
    await add_received(database, "1 second")
    await add_received(database, "1 second", "queued")

    assert await find() == {}


async def test_what_a_back_fill_finds_is_no_webhook(find: Find, database: asyncpg.Connection) -> None:
    """It neither ends a silence nor shows that signatures are right, and it may wait for calls."""
    await add_received(database, "3 hours")
    await add_received(database, "1 second", origin="backfill")
    await add_received(
        database, "1 hour", "queued", origin="backfill", error_code="rate_limited", attempt_number=1
    )
    bad = {"bad_signatures": 9, "bad_signature_code": "signature_mismatch", "bad_signature_at": NOW}
    await database.execute("UPDATE incoming_emails SET received_at = $1 WHERE origin = 'webhook'", NOW - HOUR)

    assert {*await find(**bad)} == {"signatures"}


async def test_a_target_that_keeps_removed_emails_for_a_day_is_reported(
    find: Find, res: Resources, database: asyncpg.Connection
) -> None:
    receipt = await add(database, "receipts", kind="purge", actor="tests")
    for number, (hours, code, done) in enumerate(
        [(25, "document_refused", False), (30, None, False), (25, "receiver_away", True), (23, None, False)]
    ):
        await database.execute(
            "INSERT INTO removed_emails (email_id, receipt_id, removed_at, document_key, version, target_due_at,"
            " target_done_at, target_error_code) VALUES ($1, $2, now() - make_interval(hours => $3), 'key', 2, now(),"
            " CASE WHEN $5 THEN now() END, $4)",
            *(number, receipt, hours, code, done),
        )

    found = await find(synced_to(res.settings))

    assert {*found} == {"sync deletions"}
    assert found["sync deletions"].count == 2
    assert "(document_refused), the oldest for 1 d 6 h." in found["sync deletions"].detail
    assert f"`holdfast receipts show {receipt}`" in found["sync deletions"].detail
    assert await find() == {}, "without a target"
    await database.execute("UPDATE removed_emails SET target_error_code = NULL")
    assert await find(synced_to(res.settings)) == {}, "a target that was set just now"


async def test_drift_is_that_of_our_account_alone(
    find: Find, res: Resources, database: asyncpg.Connection
) -> None:
    """Nothing checks an account that was set before, so an alert about it would never end."""
    for account in ("https://former.zendesk.com", account_of(res)):
        await database.execute(
            "INSERT INTO connections (account, endpoint, webhook_id, trigger_id, condition, drift, drift_since)"
            " VALUES ($1, 'https://h.example', '1', '2', 'mail', $2, now())",
            account,
            '[{"code": "webhook_gone", "text": "It is gone."}]',
        )

    assert {*await find()} == {f"drift {account_of(res)}"}


async def test_failures_are_one_condition_per_error_and_host(
    find: Find, database: asyncpg.Connection
) -> None:
    for _ in range(3):
        last = await add_failed(database, "1 hour")
    await add_failed(database, "1 hour", host="b.example")
    await add_failed(database, "1 hour", code="too_large", host=None)

    found = await find()

    assert {key: each.count for key, each in found.items()} == {
        "failures gone@a.example": 3,
        "failures gone@b.example": 1,
        "failures too_large@": 1,
    }
    first = found["failures gone@a.example"]
    assert first.summary == "E-mails fail with gone at a.example"
    assert first.email_id == last
    assert f"For example e-mail {last}: It is gone. xxx" in first.detail
    assert len(first.detail) < 500


async def test_old_failures_cause_no_alert(find: Find, database: asyncpg.Connection) -> None:
    await add_failed(database, "25 hours")
    await add_failed(database, "400 days", host="b.example")

    assert await find() == {}


async def test_old_email_that_failed_recently_causes_an_alert(
    find: Find, database: asyncpg.Connection
) -> None:
    number = await add_failed(database, "3 days")
    await database.execute("UPDATE incoming_emails SET completed_at = now() WHERE id = $1", number)

    assert [*await find()] == ["failures gone@a.example"]


def test_many_hosts_share_an_alert_and_open_alerts_stay() -> None:
    groups = [FailedGroup("gone", f"{number}.example", 1, number, "reason") for number in range(100)]

    first = failures.group(groups, {})
    opened = {("failures", each.key): NOW for each in first}
    grown = [FailedGroup("gone", "new.example", 9, 200, "reason"), *groups]
    second = failures.group(grown, opened)

    assert len(first) == MAX_HOSTS + 1
    assert {each.key for each in second} == {each.key for each in first}
    assert sum(each.count for each in second) == 109
    assert second[-1].summary == "E-mails fail with gone at 91 more hosts"


def test_host_with_unusual_characters_is_not_shown() -> None:
    [found] = failures.group([FailedGroup("gone", "<!channel>\r\nBcc: x", 1, 1, "a\u202eb\x00\nc")], {})

    assert found.summary == "E-mails fail with gone at a host with a strange name"
    assert found.detail.endswith("For example e-mail 1: a\ufffdb\ufffd c")


async def test_quarantine_is_one_condition_per_error(find: Find, database: asyncpg.Connection) -> None:
    last = await add_quarantined(database, "not_json", count=3)
    await add_quarantined(database, "no_ticket")

    found = await find()

    assert {key: each.count for key, each in found.items()} == {
        "quarantine not_json": 3,
        "quarantine no_ticket": 1,
    }
    first = found["quarantine not_json"]
    assert first.summary == "Webhooks wait in quarantine with not_json"
    assert "3 webhooks of the last 24 hours could not be parsed (not_json)" in first.detail
    assert f"For example webhook {last} in quarantine." in first.detail
    assert first.email_id is None


async def test_replayed_and_old_webhooks_cause_no_alert(find: Find, database: asyncpg.Connection) -> None:
    await add_quarantined(database, "not_json", ago="25 hours")
    await add_quarantined(database, "not_json", replayed_at=NOW)

    assert await find() == {}


async def test_full_quarantine_has_few_alerts_and_open_ones_stay(
    find: Find, database: asyncpg.Connection
) -> None:
    await add_quarantined(database, "open")
    await database.execute(
        "INSERT INTO alerts (cause, key, count, summary, detail) VALUES ('quarantine', 'open', 1, '', '')"
    )
    for number in range(MAX_CODES):
        await add_quarantined(database, f"code_{number}", count=2)
    few = await find()
    await add_quarantined(database, "flood", count=MAX_READ + 1)
    flood = await find()

    assert len(few) == MAX_CODES
    assert few["quarantine open"].count == 1
    assert "1,000 webhooks or more of the last" in flood["quarantine flood"].detail


async def test_email_without_an_attempt_in_time_waits_too_long(
    find: Find, database: asyncpg.Connection
) -> None:
    late = await add_received(database, "6 minutes", "queued", due_at=NOW + timedelta(days=10_000))
    await add_received(database, "4 minutes", "queued", due_at=NOW + timedelta(days=10_000))

    found = await find()

    assert [*found] == ["waiting"]
    assert (found["waiting"].count, found["waiting"].email_id) == (1, late)
    assert "waited longer than 5 min, the oldest for 6 min" in found["waiting"].detail


async def test_pause_between_attempts_is_no_wait(find: Find, database: asyncpg.Connection) -> None:
    later = NOW + timedelta(days=10_000)
    await add_received(database, "20 days", "queued", attempt_number=3, due_at=later)

    assert await find() == {}


async def test_email_replayed_since_the_last_turn_does_not_wait_yet(
    find: Find, database: asyncpg.Connection
) -> None:
    number = await add_received(database, "20 days", "received", due_at=NOW + timedelta(days=10_000))

    assert await find(known_id=number - 1) == {}
    assert [*await find(known_id=number)] == ["waiting"]


async def test_due_email_without_any_worker_causes_an_alert(find: Find, database: asyncpg.Connection) -> None:
    await add_received(database, "3 minutes", "queued", due_at=datetime.now(UTC) - timedelta(minutes=2))
    without = await find()
    await database.execute("INSERT INTO workers (name, pid, version) VALUES ('w', 1, '1')")
    with_one = await find()

    assert [*without] == ["no_worker"]
    assert with_one == {}


@dataclass
class Worker:
    """A row of `workers`, in minutes since noon."""

    name: str
    started: float
    seen: float
    stopped: float | None = None

    @property
    def started_at(self) -> datetime:
        return NOW + timedelta(minutes=self.started)

    @property
    def seen_at(self) -> datetime:
        return NOW + timedelta(minutes=self.seen)

    @property
    def stopped_at(self) -> datetime | None:
        return None if self.stopped is None else NOW + timedelta(minutes=self.stopped)


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        ([Worker("a", 0, 60), Worker("b", 0, 59.5)], []),
        ([Worker("a", 0, 50), Worker("b", 0, 60)], ["a"]),  # it died, and the other one is older
        ([Worker("a", 0, 50, 50), Worker("b", 0, 60)], []),  # a regular stop
        ([Worker("a", 0, 50), Worker("c", 51, 60)], []),  # replaced under another name
        (
            [Worker("a", 0, 50), Worker("b", 0, 50), Worker("c", 51, 60)],
            ["b"],
        ),  # a worker succeeds one other only
        (
            [Worker("a", 0, 20), Worker("b", 21, 40), Worker("c", 41, 60)],
            [],
        ),  # each one succeeded the one before
        ([Worker("a", 0, 20), Worker("b", 21, 40, 40), Worker("c", 39, 60)], []),  # the same with a deploy
        ([Worker("a", 0, 20), Worker("c", 19.5, 60)], []),  # a deploy that killed the old worker late
        (
            [Worker("a", 0, 0.5), Worker("b", 0.1, 0.6)],
            ["b"],
        ),  # two that died together do not succeed each other
    ],
)
def test_dead_worker_without_a_successor_is_missing(rows: list[Worker], missing: list[str]) -> None:
    found = workers.missing(rows, NOW + timedelta(minutes=60))

    assert [worker.name for worker in found] == missing


async def test_dead_worker_causes_an_alert_for_a_day(find: Find, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO workers (name, pid, version, started_at, seen_at) VALUES"
        " ('worker.1', 1, '1', now() - interval '1 hour', now() - interval '2 minutes'),"
        " ('worker.2', 1, '1', now() - interval '1 hour', now() - interval '5 seconds'),"
        " ('worker.9', 1, '1', now() - interval '9 days', now() - interval '8 days')"
    )

    found = await find()

    assert [*found] == ["workers"]
    assert "1 worker is missing, without a regular stop: worker.1 (last seen" in found["workers"].detail


async def add_four_per_hour(database: asyncpg.Connection, *, since: str, hours: str = "true") -> None:
    """Add e-mails of the last weeks, four per hour, up to some time ago."""
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, received_at)"
        " SELECT '1', 'completed', time FROM generate_series("
        "  now() - $1::text::interval, now() - interval '15 days', interval '-15 minutes') AS time"
        f" WHERE {hours}",
        since,
    )


async def test_silence_in_usually_busy_hours_is_found(find: Find, database: asyncpg.Connection) -> None:
    await add_four_per_hour(database, since="2 hours 5 minutes")

    found = await find()

    assert [*found] == ["silence"]
    assert "In the same 2 hours of the last two weeks, some came in every 30 min." in found["silence"].detail


async def test_outage_that_began_in_a_silent_night_is_found_in_the_morning(
    find: Find, database: asyncpg.Connection
) -> None:
    """The night, the twelve hours until 2:30 ago, is always silent; this morning was silent too."""
    morning = "extract(epoch FROM now() - time) % 86400 NOT BETWEEN 2.5 * 3600 AND 14.5 * 3600"
    await add_four_per_hour(database, since="14 hours", hours=morning)

    assert [*await find()] == ["silence"]


@pytest.mark.parametrize(
    ("since", "hours"),
    [
        ("1 hour 50 minutes", "true"),
        ("10 hours", "extract(epoch FROM now() - time) % 86400 > 36000"),  # a night
        ("2 days", "extract(epoch FROM now() - time) % 604800 > 172800"),  # a weekend
        ("20 hours", "extract(epoch FROM time)::bigint / 900 % 80 = 0"),  # one every twenty hours
        ("3 hours", "time > now() - interval '12 days'"),  # too little history
    ],
)
async def test_usual_silence_causes_no_alert(
    find: Find, database: asyncpg.Connection, since: str, hours: str
) -> None:
    await add_four_per_hour(database, since=since, hours=hours)

    assert await find() == {}


async def test_silence_lasts_until_a_webhook_comes_also_into_the_night(
    find: Find, database: asyncpg.Connection
) -> None:
    await add_received(database, "3 days")
    await database.execute(
        "INSERT INTO alerts (cause, key, count, summary, detail, opened_at)"
        " VALUES ('silence', '', 1, '', '', now() - interval '2 days')"
    )
    before = await find()
    await add_received(database, "1 second")
    after = await find()

    assert [*before] == ["silence"]
    assert after == {}


async def test_fixed_limit_replaces_the_usual_silence(
    find: Find, res: Resources, database: asyncpg.Connection
) -> None:
    strict = res.settings.model_copy(update={"alert_silence_seconds": 60.0})
    nothing = await find(strict)
    await add_received(database, "2 minutes")

    assert nothing == {}
    assert [*await find(strict)] == ["silence"]
    assert await find() == {}


async def test_bad_signatures_cause_an_alert_until_an_email_is_saved(
    find: Find, database: asyncpg.Connection
) -> None:
    bad = {
        "bad_signatures": 5,
        "bad_signature_code": "signature_mismatch",
        "bad_signature_at": datetime.now(UTC) - timedelta(minutes=1),
    }
    await add_received(database, "2 minutes")
    found = await find(**bad)
    few = await find(**{**bad, "bad_signatures": 4})
    await add_received(database, "1 second")
    after = await find(**bad)

    assert [*found] == ["signatures"]
    assert "5 webhooks in a row had no valid signature (signature_mismatch)" in found["signatures"].detail
    assert (few, after) == ({}, {})


def test_clean_returns_one_bounded_line_of_printable_characters() -> None:
    assert clean("a\r\nb\u2028c\u202ed\x1b[31m  e") == "a b c\ufffdd\ufffd[31m e"
    assert clean("x" * 500, 10) == "xxxxxxxxx…"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59, "59 s"), (119, "1 min 59 s"), (300, "5 min"), (7260, "2 h 1 min"), (90000, "1 d 1 h")],
)
def test_durations_have_two_units(seconds: int, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words


async def test_failed_and_late_syncs_are_one_condition(
    find: Find, res: Resources, database: asyncpg.Connection
) -> None:
    settings = synced_to(res.settings)
    refused = {
        "sync_error_code": "document_refused",
        "sync_error": "mongodb: the document\nwas refused (121)",
    }
    failed = [await add_received(database, "1 hour", sync_status="failed", **refused) for _ in range(2)][-1]
    only_failed = await find(settings)
    waiting = await add_received(database, "1 hour", sync_status="pending", sync_error_code="receiver_away")
    await add_received(database, "1 hour", "processing", sync_status="pending")
    before = await find(settings)
    await database.execute("UPDATE incoming_emails SET sync_begun_at = now() - interval '12 min'")
    both = (await find(settings))["sync"]
    await database.execute("UPDATE incoming_emails SET sync_status = 'synced' WHERE sync_status = 'failed'")
    only_late = (await find(settings))["sync"]

    assert (before["sync"].count, only_failed["sync"].count) == (2, 2), "a new sync is not late"
    assert (both.summary, both.count, both.email_id) == ("E-mails could not be synced", 3, failed)
    assert (
        f"For example e-mail {failed}: mongodb: the document was refused (121) (document_refused)"
        in both.detail
    )
    assert "1 finished e-mail waited longer than 5 min for a sync, the oldest for 12 min." in both.detail
    assert only_late.summary == "Finished e-mails wait for their sync"
    assert (only_late.count, only_late.email_id) == (1, waiting)
    assert f"e-mail {waiting}: no attempt has ended yet (receiver_away)" in only_late.detail


async def test_failed_sync_causes_an_alert_only_with_a_target_and_for_a_day(
    find: Find, res: Resources, database: asyncpg.Connection
) -> None:
    number = await add_received(database, "1 hour", sync_status="failed")
    without = await find()
    settings = synced_to(res.settings)
    found = await find(settings)
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - interval '25 hours'")
    old = await find(settings)
    await database.execute(
        "UPDATE incoming_emails SET sync_due_at = now(), sync_status = 'pending', completed_at = now() - interval '1 year'"
    )
    again = await find(settings)

    assert (without, [*found], old) == ({}, ["sync"], {})
    assert again == {}, "the sync began a moment ago"
    assert number == found["sync"].email_id


async def test_emails_waiting_for_zendesk_cause_an_alert(find: Find, database: asyncpg.Connection) -> None:
    """These errors use up no retry, so the e-mails never fail."""
    waits = {"error_code": "token_unavailable", "processing_error": "away", "attempt_number": 1}
    first = await add_received(database, "1 hour", "queued", **waits)
    await add_received(database, "30 minutes", "queued", **waits)
    await add_received(database, "1 second", "queued", **waits)
    await add_received(database, "1 hour", "completed", **waits)

    found = (await find())["zendesk token_unavailable"]
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed'")

    assert (found.count, found.email_id) == (2, first)
    assert "away" in found.detail
    assert "zendesk token_unavailable" not in await find()
