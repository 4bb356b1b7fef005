"""Tickets whose comments Zendesk refuses: recorded, asked for again, and read from where they were refused."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
import pytest

from service.backfill import record, requests
from service.backfill.record import History, Page
from service.backfill.refused import MOST_OTHERS
from service.backfill.run import account_of, step
from service.backfill.tickets import AT_ONCE, reaches_one
from service.errors import Transient
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources
from tests.conftest import eventually
from tests.support.backfill import comments, last_run, make_due, search, source, steps, without_pause
from tests.support.source import keep, say

HOUR = timedelta(hours=1)


def ago(time: timedelta) -> datetime:
    return (datetime.now(UTC) - time).replace(microsecond=0)


async def refused(database: asyncpg.Connection) -> list[asyncpg.Record]:
    return list(await database.fetch("SELECT * FROM refused_tickets ORDER BY ticket_id"))


async def is_blocked(database: asyncpg.Connection) -> bool:
    """Say whether a statement waits for a lock of this connection."""
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    )
    return bool(await database.fetchval(waiting))


@pytest.fixture(autouse=True)
def lists(zendesk: Zendesk) -> None:
    """Close the export: the list asks for the comments of each ticket."""
    zendesk.state.listings.closed = 403


async def test_a_refused_ticket_is_recorded_and_stops_no_search(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    made = [zendesk.add_email(number, created_at=ago(HOUR)) for number in (1, 2, 3)]
    zendesk.state.restricted = {"2"}

    await search(res, database, zendesk)
    (row,) = await refused(database)

    assert await comments(database) == [str(made[0]), str(made[2])]
    assert ((await last_run(database))["error_code"], (await source(database))["error_code"]) == (None, None)
    assert (row["ticket_id"], row["error_code"]) == ("2", "forbidden")
    assert row["since"] < ago(timedelta(days=6)), "all that this search would have read"
    assert timedelta(hours=23) < row["due_at"] - datetime.now(UTC) <= timedelta(days=1)


async def test_it_is_asked_for_again_once_a_day_and_read_from_where_it_was_refused(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    old = zendesk.add_email(2, created_at=ago(5 * timedelta(days=1)))
    made = zendesk.add_email(1, created_at=ago(HOUR))
    zendesk.state.restricted = {"2"}
    await search(res, database, zendesk)
    # The next searches begin long after its e-mail, and do not meet it.
    zendesk.state.lookups.clear()
    await make_due(database)
    await search(res, database, zendesk)
    asked_early = zendesk.state.lookups["2"]
    await database.execute("UPDATE refused_tickets SET due_at = now()")
    await make_due(database)
    await search(res, database, zendesk)
    still = await refused(database)

    zendesk.state.restricted = set()
    await database.execute("UPDATE refused_tickets SET due_at = now()")
    await make_due(database)
    await search(res, database, zendesk)

    assert (asked_early, zendesk.state.lookups["2"], len(still)) == (0, 2, 1)
    assert await comments(database) == [str(old), str(made)]
    assert await refused(database) == []


async def test_a_person_asks_for_all_of_them_at_once(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """By `holdfast backfill`; the search itself begins behind their e-mails."""
    days = {1: 4, 2: 3, 3: 2, 4: 1}
    made = [
        zendesk.add_email(number, created_at=ago(ago_days * timedelta(days=1)))
        for number, ago_days in days.items()
    ]
    zendesk.state.restricted = {"2", "3"}
    await search(res, database, zendesk)
    zendesk.state.restricted = {"3"}

    await requests.begin(res, None, "grace")
    await search(res, database, zendesk)

    assert await comments(database) == [str(made[0]), str(made[1]), str(made[3])]
    assert [row["ticket_id"] for row in await refused(database)] == ["3"]


async def test_a_person_asks_for_all_of_them_while_a_search_is_open(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """It has saved its first page, and knows nothing of the refused ticket, whose e-mail is older than what it searches."""
    made = [zendesk.add_email(2, created_at=ago(3 * timedelta(days=1))), zendesk.add_email(1)]
    zendesk.state.restricted = {"2"}
    await search(res, database, zendesk)
    zendesk.state.restricted = set()
    made.append(zendesk.add_email(3))
    await make_due(database)
    await step(res)
    open_run = await last_run(database)

    run_id = await requests.begin(res, None, "grace")
    await search(res, database, zendesk)

    assert (open_run["finished_at"], open_run["position"]["tickets"] != []) == (None, True)
    assert (run_id, (await last_run(database))["id"]) == (open_run["id"], open_run["id"])
    assert await comments(database) == [str(number) for number in made]
    assert await refused(database) == []


async def test_a_step_under_way_forgets_no_ticket_that_a_person_asks_for(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The search's last page is read and not yet saved: it must not end the search."""
    made = [zendesk.add_email(2, created_at=ago(3 * timedelta(days=1))), zendesk.add_email(1)]
    zendesk.state.restricted = {"2"}
    await search(res, database, zendesk)
    zendesk.state.restricted = set()
    await make_due(database)
    account = account_of(res)
    held = await res.run(lambda conn: record.take(conn, account, 5))
    assert held is not None
    run = await res.run(lambda conn: record.next_run(conn, held, 5))
    assert run is not None
    await requests.begin(res, None, "grace")
    last = partial(record.save, held=held, run=run, page=Page(None, {}, is_read=True), account_id=None)

    with pytest.raises(Transient, match="Another process"):
        await res.run(partial(last, minutes=5, sync_status="off"))
    await without_pause(database, zendesk)
    await search(res, database, zendesk)

    assert await comments(database) == [str(number) for number in made]
    assert await refused(database) == []


async def test_who_asks_for_them_locks_the_account_before_its_tickets(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """As a page does when it is saved: in another order, both could wait for each other."""
    for number in (1, 2):
        zendesk.add_email(number, created_at=ago(HOUR))
    zendesk.state.restricted = {"2"}
    await search(res, database, zendesk)

    async with database.transaction():
        await database.execute("SELECT FROM sources FOR NO KEY UPDATE")
        asking = asyncio.create_task(requests.begin(res, None, "grace"))
        await eventually(partial(is_blocked, database))
        await database.execute("SELECT FROM refused_tickets FOR UPDATE NOWAIT")

    assert await asking == (await last_run(database))["id"]


async def test_a_later_search_that_may_read_it_reads_what_was_refused_before(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """A search that ends earlier does not: the ticket stays on record."""
    made = [
        zendesk.add_email(number, created_at=ago(days * timedelta(days=1)))
        for number, days in ((1, 1), (2, 5), (2, 3))
    ]
    zendesk.state.restricted = {"2"}
    await search(res, database, zendesk)
    zendesk.state.restricted = set()
    past = History(ago(timedelta(days=6)), ago(timedelta(days=4)), dry_run=False)
    await requests.begin(res, past, "grace")
    await search(res, database, zendesk)
    after_past = await refused(database)

    made.append(zendesk.add_email(2))
    await make_due(database)
    await search(res, database, zendesk)

    assert len(after_past) == 1
    assert await comments(database) == [str(number) for number in sorted(made)]
    assert await refused(database) == []


async def test_a_ticket_that_is_deleted_meanwhile_is_forgotten(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    for number in (1, 2):
        zendesk.add_email(number, created_at=ago(HOUR))
    zendesk.state.restricted = {"2"}
    await search(res, database, zendesk)
    zendesk.state.restricted = set()
    zendesk.delete_ticket(2)

    await requests.begin(res, None, "grace")
    await search(res, database, zendesk)

    assert await refused(database) == []


async def test_a_dry_run_records_none(res: Resources, zendesk: Zendesk, database: asyncpg.Connection) -> None:
    await search(res, database, zendesk)
    for number in (1, 2):
        zendesk.add_email(number, created_at=ago(HOUR))
    zendesk.state.restricted = {"2"}

    await requests.begin(res, History(ago(2 * HOUR), None, dry_run=True), "grace")
    await search(res, database, zendesk)

    assert await refused(database) == []


@pytest.mark.parametrize("is_readable", [True, False])
async def test_a_refusal_of_all_tickets_is_one_of_the_credentials_unless_they_reach_another(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, *, is_readable: bool
) -> None:
    """A search that meets one ticket alone, which is restricted, must not stand still for ever."""
    await say(database, await keep(database, "1", "7", account_id="21978514"), "7")
    zendesk.add_email(1, created_at=ago(timedelta(days=30)))
    zendesk.add_email(2, created_at=ago(HOUR))
    zendesk.state.restricted = {"2"} if is_readable else {"1", "2"}

    await steps(res)

    assert (await last_run(database))["error_code"] == (None if is_readable else "forbidden")
    assert len(await refused(database)) == is_readable


async def test_deleted_tickets_do_not_tell_that_the_credentials_reach_none(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The newest tickets that are kept here were deleted in Zendesk since; an older one is still there."""
    for number in range(1, 7):
        kept = await keep(database, str(number), f"70{number}", account_id="21978514")
        await say(database, kept, f"70{number}")
        zendesk.add_email(number, created_at=ago(timedelta(days=30)))
    for number in range(2, 7):
        zendesk.delete_ticket(number)
    zendesk.add_email(9, created_at=ago(HOUR))
    zendesk.state.restricted = {"9"}

    await steps(res)

    assert (await last_run(database))["error_code"] is None
    assert [row["ticket_id"] for row in await refused(database)] == ["9"]


async def test_tickets_that_are_yet_to_read_tell_whether_the_credentials_reach_any(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Nothing is kept here yet, and all tickets of the first step are restricted."""
    made = [zendesk.add_email(number, created_at=ago(HOUR * (60 - number))) for number in range(1, 51)]
    zendesk.state.restricted = {str(number) for number in range(4, 51)}

    await search(res, database, zendesk)

    assert (await last_run(database))["error_code"] is None
    assert await comments(database) == [str(number) for number in made[:3]]
    assert len(await refused(database)) == 47


async def test_a_doubt_about_the_credentials_costs_a_bounded_number_of_calls(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    for number in range(1, 101):
        zendesk.add_email(number, created_at=ago(HOUR))
        await say(database, await keep(database, f"9{number}", f"7{number}"), f"7{number}")
    zendesk.state.restricted = {str(number) for number in range(1, 101)}

    await steps(res)

    assert (await last_run(database))["error_code"] == "forbidden"
    assert zendesk.state.calls["comments"] <= AT_ONCE + 2 * MOST_OTHERS
    assert await refused(database) == []


async def test_a_ticket_that_cannot_be_read_for_its_own_reason_tells_nothing_of_the_credentials(
    res: Resources, zendesk: Zendesk
) -> None:
    """Another one may tell; without one, the step is repeated, and no ticket is skipped."""
    for number in (1, 2):
        zendesk.add_email(number)
    zendesk.state.api_faults.append(Fault(status=500))
    is_reached = await reaches_one(res.zendesk, ["1", "2"], 0.0)
    zendesk.state.api_faults += [Fault(status=500), Fault(status=404)]

    with pytest.raises(Transient, match="Ticket 1"):
        await reaches_one(res.zendesk, ["1", "2"], 0.0)

    assert is_reached
