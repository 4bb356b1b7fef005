"""The two ways to find e-mails, and everything at Zendesk that made others lose some of them."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service.backfill import requests
from service.backfill.legs import LISTED
from service.backfill.record import History
from service.backfill.run import step
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources
from service.zendesk.client import MOST_PAGE_BYTES
from tests.support.backfill import comments, last_run, make_due, search, source, steps, without_pause

HOUR = timedelta(hours=1)


def ago(time: timedelta) -> datetime:
    return (datetime.now(UTC) - time).replace(microsecond=0)


def texts(numbers: list[int]) -> list[str]:
    return [str(number) for number in sorted(numbers)]


@pytest.fixture(params=["events", "lists"])
def leg(request: pytest.FixtureRequest, zendesk: Zendesk) -> str:
    """Each leg; the export is closed for the second one."""
    name: str = request.param
    zendesk.state.listings.closed = 403 if name == "lists" else None
    return name


# ── both legs


async def test_both_legs_find_the_same_e_mails(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, leg: str
) -> None:
    """Replies to tickets of other channels and follow-ups among them; no comment of another channel."""
    zendesk.add_comment(1, channel="web", created_at=ago(3 * HOUR))
    made = [
        zendesk.add_email(1, created_at=ago(2 * HOUR)),
        zendesk.add_email(2, outbound=True, created_at=ago(HOUR)),
        zendesk.add_email(3, follows=2, created_at=ago(HOUR)),
        zendesk.add_email(4, channel=4, created_at=ago(HOUR)),
        zendesk.add_email(5, channel="mail", public=False, created_at=ago(HOUR)),
    ]
    for channel in ("api", "chat", "sms"):
        zendesk.add_comment(1, channel=channel)

    await search(res, database, zendesk)

    assert await comments(database) == texts(made)
    assert (await source(database))["leg"] == leg


async def test_a_ticket_with_many_comments_is_read_until_they_are_older(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    old = [zendesk.add_email(1, created_at=ago(timedelta(days=20, seconds=number))) for number in range(150)]
    new = [zendesk.add_email(1, created_at=ago(timedelta(seconds=3_600 + number))) for number in range(120)]

    await search(res, database, zendesk)

    assert await comments(database) == texts(new)
    assert zendesk.state.calls["comments"] == 2
    assert not set(texts(old)) & set(await comments(database))


async def test_a_ticket_that_zendesk_does_not_show_is_skipped(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """It neither stops the search nor hides an error of another ticket."""
    zendesk.state.listings.closed = 403
    made = [zendesk.add_email(number, created_at=ago(HOUR)) for number in range(1, 6)]
    del zendesk.state.comments["3"]

    await search(res, database, zendesk)

    assert await comments(database) == texts([*made[:2], *made[3:]])
    assert (await last_run(database))["error_code"] is None


async def test_an_error_of_one_ticket_is_met_again_and_moves_nothing(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    made = [zendesk.add_email(number, created_at=ago(HOUR)) for number in range(1, 4)]
    await step(res)  # the export is closed
    await step(res)  # the list
    zendesk.state.api_faults += [Fault(), Fault(status=500)]

    await step(res)
    failed, run = await source(database), await last_run(database)
    await search(res, database, zendesk)

    assert (failed["error_code"], failed["watermark"]) == ("server_error", None)
    assert len(run["position"]["tickets"]) == 1, "the others are read all the same, and once"
    assert await comments(database) == texts(made)
    assert zendesk.state.lookups.total() == 3


@pytest.mark.parametrize("number", [1, 3])
async def test_few_tickets_that_are_all_refused_are_not_skipped(
    number: int, res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    made = [zendesk.add_email(ticket, created_at=ago(HOUR)) for ticket in range(1, number + 1)]
    await step(res)
    await step(res)
    zendesk.state.api_faults += [Fault(status=403) for _ in range(number)]
    await step(res)
    refused = await source(database)

    await search(res, database, zendesk)

    assert (refused["error_code"], refused["watermark"]) == ("forbidden", None)
    assert await comments(database) == texts(made)


async def test_a_search_by_lists_promises_nothing_of_archived_tickets(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    zendesk.add_email(1, created_at=ago(HOUR))
    await search(res, database, zendesk)
    wanted = History(datetime.now(UTC) - timedelta(days=900), None, False)

    await requests.begin(res, wanted, "test")
    await search(res, database, zendesk)

    since = (await source(database))["complete_since"]
    assert abs(since - (datetime.now(UTC) - LISTED)) < timedelta(minutes=5)


async def test_a_list_that_goes_on_without_a_cursor_is_no_end(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    await step(res)
    page = b'{"tickets": [], "next_page": "https://acme.zendesk.com/api/v2/tickets.json?page=2"}'
    zendesk.state.api_faults.append(
        Fault(status=200, headers={"Content-Type": "application/json"}, body=page)
    )

    await step(res)

    found = await source(database)
    assert (found["error_code"], found["watermark"]) == ("bad_response", None)


def answer(page: object) -> Fault:
    """Return a script for a call that is answered with this page."""
    return Fault(
        status=200, headers={"Content-Type": "application/json"}, body=json.dumps(page, default=str).encode()
    )


async def test_an_e_mail_of_a_ticket_that_was_deleted_and_restored_is_found(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, leg: str
) -> None:
    """The list shows no deleted ticket, so that the search has passed its e-mail when it is restored."""
    await search(res, database, zendesk)
    made = [
        zendesk.add_email(1, created_at=ago(HOUR)),
        zendesk.add_email(2, created_at=ago(timedelta(minutes=9))),
    ]
    zendesk.delete_ticket(1)
    await make_due(database)
    await search(res, database, zendesk)
    zendesk.restore_ticket(1)
    zendesk.state.tickets["1"]["updated_at"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    await make_due(database)
    await search(res, database, zendesk)

    assert await comments(database) == texts(made)
    assert (await source(database))["leg"] == leg


async def test_all_comments_of_a_long_ticket_are_read_where_a_page_is_too_large(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Pages of ten comments instead of a hundred are ten times as many."""
    zendesk.state.listings.closed = 403
    made = [zendesk.add_email(1, created_at=ago(HOUR + timedelta(seconds=place))) for place in range(600)]
    await step(res)
    await step(res)
    too_large = Fault(
        status=200, headers={"Content-Type": "application/json"}, body=b" " * (MOST_PAGE_BYTES + 1)
    )
    zendesk.state.api_faults.append(too_large)

    await search(res, database, zendesk)

    assert await comments(database) == texts(made)


@pytest.mark.parametrize("links", [{}, {"next": None}, None])
async def test_comments_that_go_on_without_an_address_are_no_end(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, links: object
) -> None:
    zendesk.state.listings.closed = 403
    made = [zendesk.add_email(1, created_at=ago(HOUR)) for _ in range(3)]
    await step(res)
    await step(res)
    page = {"comments": zendesk.state.comments["1"][:1], "meta": {"has_more": True}, "links": links}
    zendesk.state.api_faults.append(answer(page))

    await step(res)
    failed = await source(database)
    await search(res, database, zendesk)

    assert (failed["error_code"], failed["watermark"]) == ("bad_response", None)
    assert await comments(database) == texts(made)


async def test_a_last_page_with_the_address_of_an_empty_one_is_the_end(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Recorded answers of Zendesk have one; a ticket that is never read stops the watermark."""
    zendesk.state.listings.closed = 403
    made = [zendesk.add_email(1, created_at=ago(HOUR)) for _ in range(3)]
    await step(res)
    await step(res)
    following = {"next": f"{zendesk.url}/api/v2/tickets/1/comments.json?page[after]=x"}
    page = {"comments": zendesk.state.comments["1"], "meta": {"has_more": False}, "links": following}
    zendesk.state.api_faults.append(answer(page))

    await step(res)

    assert await comments(database) == texts(made)
    assert (await source(database))["error_code"] is None


async def test_comments_that_begin_with_the_oldest_are_read_to_the_end(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    zendesk.add_email(1, created_at=ago(timedelta(days=30)))
    made = [zendesk.add_email(1, created_at=ago(HOUR)) for _ in range(3)]
    await step(res)
    await step(res)
    following = {"next": f"{zendesk.url}/api/v2/tickets/1/comments.json?sort=created_at"}
    page = {"comments": zendesk.state.comments["1"][:2], "meta": {"has_more": True}, "links": following}
    zendesk.state.api_faults.append(answer(page))

    await search(res, database, zendesk)

    assert await comments(database) == texts(made)


async def test_a_list_that_begins_with_the_oldest_is_read_to_the_end(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """As where Zendesk no longer knows the order that is asked for: its new tickets are behind all old ones."""
    zendesk.state.listings.closed = 403
    for number in range(1, 101):
        zendesk.add_email(number, created_at=ago(timedelta(days=30, minutes=number)))
    made = [zendesk.add_email(number, created_at=ago(HOUR)) for number in range(201, 204)]
    await step(res)
    for ticket in zendesk.state.tickets.values():
        ticket["updated_at"] = ticket["created_at"]
    ordered = sorted(zendesk.state.tickets.values(), key=lambda ticket: str(ticket["updated_at"]))
    first = {"tickets": ordered[:100], "meta": {"has_more": True, "after_cursor": "x"}}
    last = {"tickets": ordered[100:], "meta": {"has_more": False}}
    for page in (first, last):
        zendesk.state.api_faults.append(answer(page))
        await step(res)
    reached = (await last_run(database))["position"]["tickets"]

    await search(res, database, zendesk)

    assert {ticket for ticket, _ in reached} == {"201", "202", "203"}
    assert await comments(database) == texts(made)


async def test_an_e_mail_without_a_readable_time_is_kept(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, leg: str
) -> None:
    made = [zendesk.add_email(1, created_at=ago(HOUR)) for _ in range(2)]
    zendesk.state.comments["1"][0]["created_at"] = "yesterday"
    for audit in zendesk.state.listings.audits[:1]:
        zendesk.state.listings.audits[0] = replace(audit, comment=zendesk.state.comments["1"][0])

    await search(res, database, zendesk)

    assert await comments(database) == texts(made)
    assert (await source(database))["leg"] == leg


async def test_credentials_that_reach_no_comments_are_an_error(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    for number in range(1, 7):
        zendesk.add_email(number, created_at=ago(HOUR))
    await step(res)
    await step(res)
    zendesk.state.api_faults += [Fault(status=403) for _ in range(6)]

    await step(res)

    assert ((await last_run(database))["error_code"], (await source(database))["watermark"]) == (
        "forbidden",
        None,
    )


# ── events


async def test_the_last_minute_that_the_export_hides_is_found_later(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.hidden_seconds = 60
    made = [zendesk.add_email(1, created_at=ago(timedelta(seconds=90))), zendesk.add_email(2)]

    await steps(res)
    first = await comments(database)
    zendesk.state.listings.hidden_seconds = 0
    await make_due(database)
    await steps(res)

    assert first == texts(made[:1])
    assert await comments(database) == texts(made)


async def test_pages_overlap_and_no_e_mail_is_twice(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The next page begins with the second in which the last one ended."""
    zendesk.state.listings.most_per_page = 3
    begin = ago(HOUR)
    made = [zendesk.add_email(1, created_at=begin + timedelta(seconds=number // 2)) for number in range(20)]

    await search(res, database, zendesk)

    assert await comments(database) == texts(made)
    assert (await source(database))["leg"] == "events"


async def test_a_second_with_more_than_a_page_is_read_by_the_list(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """A bulk update stamps thousands: the export never gets past it. The next search uses the export again."""
    zendesk.state.listings.most_per_page = 5
    early = [zendesk.add_email(1, created_at=ago(2 * HOUR))]
    same = [zendesk.add_email(number, created_at=ago(HOUR)) for number in range(2, 10)]

    await search(res, database, zendesk)
    run, found = await last_run(database), await source(database)
    later = zendesk.add_email(99)
    await make_due(database)
    zendesk.state.listings.most_per_page = 1_000
    await search(res, database, zendesk)

    assert (run["leg"], found["leg"], found["leg_reason"]) == ("lists", "events", "stuck_second")
    assert await comments(database) == texts([*early, *same, later])
    assert ((await last_run(database))["leg"], (await source(database))["leg_reason"]) == ("events", None)


async def test_a_second_that_is_older_than_the_list_reaches_is_left_out_and_completeness_begins_behind_it(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The list has no archived tickets: it would not find the rest of the second. Two such seconds here."""
    zendesk.state.listings.most_per_page = 5
    old = ago(LISTED + timedelta(days=20))
    early = zendesk.add_email(1, created_at=old - HOUR)
    full = {
        zendesk.add_email(number, created_at=old + number % 2 * HOUR): number % 2 for number in range(2, 22)
    }
    later = [zendesk.add_email(30 + number, created_at=old + (2 + number) * HOUR) for number in range(8)]
    later.append(zendesk.add_email(50, created_at=ago(HOUR)))
    await search(res, database, zendesk)
    await requests.begin(res, History(old - timedelta(days=1), None, dry_run=False), "grace")

    await search(res, database, zendesk)
    run, found = await last_run(database), await source(database)
    kept = await comments(database)

    behind = old + HOUR + timedelta(seconds=1)
    assert (run["kind"], run["leg"], run["error_code"]) == ("history", "events", None)
    assert (run["left_out"], found["left_out"], found["complete_since"]) == (behind, behind, behind)
    assert {*texts([early, *later])} <= {*kept}
    assert {second for comment, second in full.items() if str(comment) in kept} == {0, 1}
    assert len({*map(str, full)} & {*kept}) < len(full)


async def test_a_second_that_was_left_out_is_known_after_the_search_goes_on_by_the_list(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The list finds nothing of that second: to begin there would promise too much."""
    zendesk.state.listings.most_per_page = 5
    old = ago(LISTED + timedelta(days=20))
    for number in range(10):
        zendesk.add_email(number, created_at=old)
    for number in range(20, 30):
        zendesk.add_email(number, created_at=ago(HOUR))
    await requests.begin(res, History(old - timedelta(days=1), None, dry_run=False), "grace")

    await search(res, database, zendesk)
    run = await database.fetchrow("SELECT * FROM backfills WHERE kind = 'history'")
    found = await source(database)

    behind = old + timedelta(seconds=1)
    assert run is not None
    assert (run["leg"], run["left_out"], run["finished_at"] is None) == ("lists", behind, False)
    assert (found["complete_since"], found["left_out"]) == (behind, behind)


async def test_a_slow_export_is_asked_for_less(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.times_out_above = 200
    begin = ago(HOUR)
    made = [zendesk.add_email(1, created_at=begin + timedelta(seconds=number)) for number in range(300)]

    await search(res, database, zendesk)

    assert await comments(database) == texts(made)
    assert ((await last_run(database))["leg"], (await source(database))["error_code"]) == ("events", None)


async def test_a_smaller_page_is_not_taken_for_a_second_with_more_than_a_page(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.api_faults += [Fault(status=504) for _ in range(5)]
    made = [zendesk.add_email(number, created_at=ago(HOUR)) for number in range(1, 60)]

    await search(res, database, zendesk)

    assert await comments(database) == texts(made)
    assert (await last_run(database))["leg"] == "events"


async def test_an_export_that_always_times_out_is_an_error(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.times_out_above = 0
    zendesk.add_email(1)

    await steps(res)

    assert zendesk.state.calls["ticket_events"] == 7, "1000, 500, 250, 125, 62, 31, 25"
    assert ((await source(database))["error_code"], (await source(database))["watermark"]) == (
        "server_error",
        None,
    )


@pytest.mark.parametrize("has_end_time", [True, False])
async def test_an_account_without_events_is_searched_all_the_same(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, *, has_end_time: bool
) -> None:
    """`end_time` of an empty page may be null; the search stays where it is, and never goes to its own clock."""
    zendesk.state.listings.has_end_time = has_end_time
    for _ in range(2):
        await steps(res)
        await make_due(database)
    found = await source(database)
    comment_id = zendesk.add_email(1, created_at=ago(6 * HOUR))
    await steps(res)

    assert found["watermark"] == found["complete_since"]
    assert found["checked_at"] is not None
    assert await comments(database) == [str(comment_id)]


@pytest.mark.parametrize("names_messages", [True, False])
@pytest.mark.parametrize("shows_comments", [True, False])
async def test_comments_whose_channel_the_export_does_not_tell_are_looked_at(
    res: Resources,
    zendesk: Zendesk,
    database: asyncpg.Connection,
    *,
    names_messages: bool,
    shows_comments: bool,
) -> None:
    """Without the side-load, the channel is a text for people, and a follow-up's is that of the web."""
    zendesk.state.listings.names_messages = names_messages
    zendesk.state.listings.shows_comments = shows_comments
    made = [zendesk.add_email(1), zendesk.add_email(2, follows=1)]
    zendesk.add_comment(1, channel="web")

    await search(res, database, zendesk)

    assert await comments(database) == texts(made)


@pytest.mark.parametrize("status", [403, 404, 410, 422])
async def test_a_closed_export_changes_the_leg_for_a_day(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, status: int
) -> None:
    zendesk.state.listings.closed = status
    made = [zendesk.add_email(1, created_at=ago(HOUR))]
    await search(res, database, zendesk)
    closed, calls = await source(database), zendesk.state.calls["ticket_events"]
    made.append(zendesk.add_email(2))
    await make_due(database)
    await search(res, database, zendesk)
    tried, same = zendesk.state.calls["ticket_events"], await comments(database)

    zendesk.state.listings.closed = None
    await database.execute("UPDATE sources SET leg_since = now() - interval '25 hours'")
    made.append(zendesk.add_email(3))
    await make_due(database)
    await search(res, database, zendesk)
    opened = await source(database)

    assert (closed["leg"], closed["leg_reason"], closed["error_code"]) == ("lists", "exports_closed", None)
    assert tried == calls
    assert same == texts(made[:2])
    assert (opened["leg"], opened["leg_reason"]) == ("events", None)
    assert await comments(database) == texts(made)


async def test_an_export_that_stays_closed_is_tried_once_a_day(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    await search(res, database, zendesk)
    await database.execute("UPDATE sources SET leg_since = now() - interval '25 hours'")
    for _ in range(3):
        await make_due(database)
        await search(res, database, zendesk)

    assert zendesk.state.calls["ticket_events"] == 2


async def test_what_was_found_before_the_export_closed_is_not_searched_again(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.most_per_page = 10
    begin = ago(timedelta(days=3))
    made = [zendesk.add_email(number, created_at=begin + number * HOUR) for number in range(1, 31)]
    for _ in range(2):
        await step(res)
    zendesk.state.listings.closed = 403

    await search(res, database, zendesk)

    assert await comments(database) == texts(made)
    assert zendesk.state.lookups.total() <= 13


async def test_a_clock_of_zendesk_that_is_behind_ours_closes_nothing(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """It refuses a start as too recent that is old enough by our clock."""
    comment_id = zendesk.add_email(1, created_at=ago(timedelta(minutes=10)))
    await steps(res)
    await database.execute("UPDATE sources SET watermark = now()")
    zendesk.state.listings.hidden_seconds = 300
    await make_due(database)

    await search(res, database, zendesk)

    assert (await source(database))["leg"] == "events"
    assert await comments(database) == [str(comment_id)]


async def test_a_clock_of_zendesk_that_is_ahead_of_ours_moves_nothing_into_the_future(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, leg: str
) -> None:
    zendesk.state.listings.hidden_seconds = -600
    made = [zendesk.add_email(1, created_at=datetime.now(UTC) + timedelta(minutes=5))]

    await search(res, database, zendesk)
    found = await source(database)
    made.append(zendesk.add_email(2))
    await make_due(database)
    await search(res, database, zendesk)

    assert found["watermark"] <= datetime.now(UTC)
    assert await comments(database) == texts(made)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"ticket_events": {}}',
        b'{"ticket_events": [{}], "end_of_stream": false}',
        b'{"ticket_events": [{}], "end_of_stream": false, "end_time": -1}',
        b'{"ticket_events": [{}], "end_of_stream": false, "end_time": 7}',
        b'{"ticket_events": [{}], "end_of_stream": false, "end_time": "1796015204"}',
        b'{"ticket_events": [{}], "end_of_stream": false, "end_time": 1e300}',
        b'{"ticket_events": [' + b"{}," * 10_001 + b"{}]}",
    ],
)
async def test_an_answer_that_is_no_export_is_an_error_and_moves_nothing(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, body: bytes
) -> None:
    zendesk.add_email(1)
    zendesk.state.api_faults.append(
        Fault(status=200, headers={"Content-Type": "application/json"}, body=body)
    )

    await step(res)
    found = await source(database)

    assert (found["error_code"], found["watermark"], found["checked_at"]) == ("bad_response", None, None)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1e400", None, 7])
async def test_a_time_of_no_calendar_breaks_nothing(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, time: object
) -> None:
    comment_id = zendesk.add_email(77)
    event = {
        "ticket_id": 77,
        "timestamp": time,
        "child_events": [{"id": 1, "event_type": "Comment", "created_at": time}],
    }
    body = json.dumps({"ticket_events": [event], "end_of_stream": True, "end_time": 7})
    zendesk.state.api_faults.append(Fault(status=200, body=body.encode()))

    await search(res, database, zendesk)

    assert await comments(database) == [str(comment_id)]
    assert (await last_run(database))["error_code"] is None


# ── lists


async def test_a_ticket_that_changes_while_the_list_is_read_is_met(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """It moves to the front of the list, which was read already, with e-mails that no later search would look at."""
    zendesk.state.listings.closed = 403
    made = [
        zendesk.add_email(number, created_at=ago(HOUR) - timedelta(seconds=number)) for number in range(250)
    ]
    await step(res)
    await step(res)
    made.append(zendesk.add_email(249, created_at=ago(timedelta(0))))
    await search(res, database, zendesk)

    assert await comments(database) == texts(made)


async def test_more_tickets_than_a_page_that_changed_in_one_second_end_a_list(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """As after a bulk update, when nothing else changes for long."""
    zendesk.state.listings.closed = 403
    made = [zendesk.add_email(number, created_at=ago(HOUR)) for number in range(1, 121)]
    for ticket in zendesk.state.tickets.values():
        ticket["updated_at"] = f"{ago(HOUR):%Y-%m-%dT%H:%M:%SZ}"

    await search(res, database, zendesk, most=60)

    assert await comments(database) == texts(made)
    assert (await last_run(database))["error_code"] is None
    assert (await source(database))["watermark"] is not None


async def test_many_tickets_from_the_future_end_a_list(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    for number in range(1, 121):
        zendesk.add_email(number, created_at=ago(HOUR))
        zendesk.state.tickets[str(number)]["updated_at"] = "2999-01-01T00:00:00Z"
    zendesk.add_email(200, created_at=ago(HOUR))

    await search(res, database, zendesk, most=60)

    assert len(await comments(database)) == 121
    assert (await source(database))["watermark"] <= datetime.now(UTC)


async def test_a_list_whose_cursor_dies_is_begun_again(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    zendesk.state.listings.dead_cursors = 2
    made = [
        zendesk.add_email(number, created_at=ago(HOUR) - timedelta(seconds=number)) for number in range(150)
    ]

    await search(res, database, zendesk)

    assert await comments(database) == texts(made)
    assert (await last_run(database))["error_code"] is None


async def test_a_list_whose_cursor_always_dies_ends_the_search(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    zendesk.state.listings.dead_cursors = 1_000
    for number in range(150):
        zendesk.add_email(number, created_at=ago(HOUR) - timedelta(seconds=number))

    for _ in range(60):
        await steps(res, 100)
        if (await last_run(database))["finished_at"]:
            break
        await without_pause(database, zendesk)

    assert (await last_run(database))["error_code"] == "cursor_died"
    assert (await source(database))["watermark"] is None


async def test_the_end_of_a_list_is_the_newest_change(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.listings.closed = 403
    newest = ago(HOUR)
    for number in range(150):
        zendesk.add_email(number, created_at=newest - timedelta(seconds=number))

    await search(res, database, zendesk)

    assert (await source(database))["watermark"] == newest


async def test_the_list_of_a_long_history_costs_a_call_for_each_ticket(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """At the pace of the budget, and interrupted by each pause."""
    zendesk.state.listings.closed = 403
    zendesk.state.calls_per_minute = 100
    begin = ago(timedelta(days=20))
    made = [
        zendesk.add_email(number, created_at=begin + timedelta(minutes=number)) for number in range(1, 301)
    ]
    await search(res, database, zendesk)
    zendesk.state.calls.clear()

    await requests.begin(res, History(begin, None, dry_run=False), "grace")
    await search(res, database, zendesk)

    assert await comments(database) == texts(made)
    assert zendesk.state.calls["tickets"] == 4, "three pages, and the first one again"
    assert zendesk.state.calls["comments"] <= 320
