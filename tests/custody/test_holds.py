"""Holds: what they cover may not be deleted; they cover too much rather than too little."""

import asyncio
import json
from collections.abc import Awaitable
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError
from sqlalchemy import delete, select

from service.custody.holds import HoldOrder, release_hold, set_hold
from service.custody.scopes import scope_of
from service.errors import Rejected
from service.jobs import identity
from service.postgres.email_tables import IncomingEmail
from service.postgres.engine import connect, transaction
from service.postgres.held_emails import held_among, holds_on
from service.postgres.hold_tables import HeldEmail
from service.postgres.selection import LastingFilter
from service.queries.custody import get_hold
from service.resources import Resources
from tests.conftest import eventually
from tests.support.merging import add_email
from tests.support.rows import NOON, add, is_waiting_for_a_lock

HOUR = timedelta(hours=1)
ADA, BOB = "ada@a.example", "bob@b.example"


async def add_hold(database: asyncpg.Connection, name: str, wanted: Any = None, *listed: int) -> None:
    """Insert a hold past the service."""
    columns = {"filter": None if wanted is None else json.dumps(wanted, default=str)}
    hold_id = await add(database, "holds", name=name, reason="Lawsuit.", set_by="ada (tests)", **columns)
    for email_id in listed:
        await add(database, "held_emails", hold_id=hold_id, email_id=email_id)


async def add_message(database: asyncpg.Connection, email_id: int, **columns: object) -> None:
    given = {
        "comment_id": "1",
        "direction": "inbound",
        "to": "[]",
        "cc": "[]",
        "text": "",
        "text_size": 0,
        "has_html": False,
        "record_sha256": "",
        "record_key": "",
        "record_size": 0,
    }
    values = {"email_id": email_id, **given, **columns}
    await add(database, "messages", **{f'"{name}"': value for name, value in values.items()})


async def held(res: Resources, *email_ids: int) -> dict[int, list[str]]:
    async with connect(res.engine) as conn, transaction(conn):
        return await held_among(conn, email_ids)


@pytest.mark.parametrize(
    ("wanted", "columns"),
    [
        ({}, {}),
        ({"ticket": "4711"}, {}),
        ({"sender": "Ada@A.example"}, {"from_email": "aDA@a.example"}),
        ({"received_after": NOON, "received_before": NOON + HOUR}, {"received_at": NOON}),
        ({"received_before": NOON}, {"received_at": NOON, "sent_at": NOON - HOUR}),
        ({"ticket": "4711", "sender": ADA}, {"from_email": None}),  # nobody knows who sent it
        ({"of_a_newer_version": 1}, {}),
        ({"ticket": " 4711\n"}, {}),  # earlier versions kept blanks
        ({"sender": f" {ADA} "}, {"from_email": ADA}),
        ({"ticket": ""}, {}),  # and accepted what can match no e-mail
        ({"sender": "Ada <ada@a.example>"}, {}),
        ({"received_after": NOON, "received_before": NOON - HOUR}, {}),
    ],
)
async def test_a_filter_covers_what_matches_or_may_match(
    res: Resources, database: asyncpg.Connection, wanted: dict[str, Any], columns: dict[str, Any]
) -> None:
    email_id = await add(database, **{"from_email": BOB, **columns})
    await add_hold(database, "one", wanted)

    assert await held(res, email_id) == {email_id: ["one"]}


@pytest.mark.parametrize(
    ("wanted", "columns"),
    [
        ({"ticket": "471"}, {}),
        ({"ticket": "1", "sender": ADA}, {"from_email": None}),
        ({"sender": "da@a.example"}, {"from_email": ADA}),
        ({"received_before": NOON}, {"received_at": NOON}),
        ({"ticket": " 471 "}, {}),
        ({"sender": f" {BOB} "}, {"from_email": ADA}),
        (None, {}),
    ],
)
async def test_a_filter_leaves_out_what_cannot_match(
    res: Resources, database: asyncpg.Connection, wanted: dict[str, Any] | None, columns: dict[str, Any]
) -> None:
    email_id = await add(database, **columns)
    await add_hold(database, "one", wanted)

    assert await held(res, email_id) == {}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        *(({"ticket": value}, "ticket") for value in ("", " ", "#4711", "ticket 4711", "4711,4712", "04711")),
        *(
            ({"sender": value}, "sender")
            for value in (
                "",
                " ",
                f"Ada <{ADA}>",
                f"{ADA}, {BOB}",
                "a.example",
                "@a.example",
                f"mailto:{ADA}",
            )
        ),
        *(({"sender": value}, "sender") for value in (f"{ADA}.", f"\u200b{ADA}", "ada @a.example", "ada@")),
        ({"received_after": NOON, "received_before": NOON}, "received_before"),
        ({"received_after": NOON, "received_before": NOON - HOUR}, "received_before"),
    ],
)
def test_a_filter_that_can_match_nothing_is_refused_by_holds_rules_and_erasures(
    given: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError) as error:
        LastingFilter.model_validate(given)

    [problem] = error.value.errors()
    assert problem["loc"] == (field,)
    assert "write" in problem["msg"] or "later" in problem["msg"]
    if field in {"ticket", "sender"}:
        with pytest.raises(Rejected) as refused:
            scope_of(given)
        assert (refused.value.status, refused.value.code) == (422, "erasure_scope")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("ticket", "4711"),
            ("ticket", "{{ticket.id}}"),
            ("sender", ADA),
            ("sender", "O'Hara+x@müller.example"),
        ),
        *(("sender", value) for value in ("a@[192.0.2.1]", "MAILER-DAEMON", '"john doe"@a.example')),
        *(("sender", value) for value in ("/O=CORP/CN=ADA", "a:b@a.example")),
    ],
)
def test_blanks_around_a_ticket_or_an_address_are_no_part_of_it(field: str, value: str) -> None:
    written = {field: f" \t{value}\u00a0\n"}

    assert LastingFilter.model_validate(written).model_dump()[field] == value
    assert scope_of({**written}).subject == value


async def test_the_sender_and_the_dates_of_the_message_count_too(
    res: Resources, database: asyncpg.Connection
) -> None:
    """A webhook may name the requester, and a back-fill finds an e-mail years later."""
    email_id = await add(database, from_email=BOB, received_at=NOON)
    await add_message(database, email_id, from_address=ADA, created_at=NOON - 9000 * HOUR)
    await add_hold(database, "webhook", {"sender": BOB, "received_after": NOON})
    await add_hold(database, "message", {"sender": ADA, "received_before": NOON - 8000 * HOUR})
    await add_hold(database, "neither", {"received_after": NOON - 8000 * HOUR, "received_before": NOON})

    assert await held(res, email_id) == {email_id: ["webhook", "message"]}


async def test_a_listed_email_stays_held_after_it_is_merged_and_until_its_hold_is_released(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_ids = [await add(database, idempotency_key=str(n)) for n in range(3)]
    await add(database, "merged_emails", id=99, email_id=email_ids[1], idempotency_key="99")
    await add_hold(database, "one", None, email_ids[0], 99)
    await add_hold(database, "two", None, email_ids[0])
    before = await held(res, *email_ids)

    await database.execute("UPDATE holds SET released_at = now() WHERE name = 'one'")

    assert before == {email_ids[0]: ["one", "two"], email_ids[1]: ["one"]}
    assert await held(res, *email_ids) == {email_ids[0]: ["two"]}


async def code_of(refused: Awaitable[object]) -> tuple[int, str]:
    with pytest.raises(Rejected) as error:
        await refused
    return error.value.status, error.value.code


async def test_a_hold_is_set_and_released_once_with_names_and_reasons(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add(database)
    order = HoldOrder("lawsuit-1", " Lawsuit,\n Miller ", None, [email_id, email_id])

    await set_hold(res, order, "ada (tests)")
    before = await held(res, email_id)
    again = await code_of(set_hold(res, order, "bob (tests)"))
    await release_hold(res, "lawsuit-1", "bob (tests)", "Settled.")

    assert before == {email_id: ["lawsuit-1"]}
    assert await held(res, email_id) == {}
    assert again == await code_of(set_hold(res, order, "bob (tests)")) == (409, "hold_exists")
    assert await code_of(release_hold(res, "lawsuit-1", "bob", "x")) == (409, "hold_released")
    assert await code_of(release_hold(res, "lawsuit-2", "bob", "x")) == (404, "hold_not_found")
    hold = await database.fetchrow("SELECT reason, set_by, released_by, release_reason FROM holds")
    assert tuple(hold) == ("Lawsuit, Miller", "ada (tests)", "bob (tests)", "Settled.")
    actions = await database.fetch("SELECT actor, action, subject, reason FROM operator_actions ORDER BY id")
    assert [tuple(row) for row in actions] == [
        ("ada (tests)", "set_hold", "lawsuit-1", "Lawsuit, Miller"),
        ("bob (tests)", "release_hold", "lawsuit-1", "Settled."),
    ]


async def test_a_wrong_order_sets_no_hold(res: Resources, database: asyncpg.Connection) -> None:
    everything = LastingFilter()
    codes = [
        await code_of(set_hold(res, order, "ada (tests)"))
        for order in (
            HoldOrder("A hold", "x", everything),
            HoldOrder("../x", "x", everything),
            HoldOrder("one", " ", everything),
            HoldOrder("one", "x"),
            HoldOrder("one", "x", everything, [4711]),
        )
    ]

    assert codes == [
        (422, "hold_name"),
        (422, "hold_name"),
        (409, "reason_missing"),
        (409, "hold_empty"),
        (404, "email_not_found"),
    ]
    assert await database.fetchval("SELECT count(*) FROM holds") == 0


async def test_a_hold_waits_for_a_deletion_that_began_and_comes_before_the_next_one(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Between the check and the deletion no hold is set; a deletion that begins later sees the hold."""
    email_ids = [await add(database, idempotency_key=str(n)) for n in range(2)]
    async with connect(res.engine) as conn:
        async with transaction(conn):
            free = await held_among(conn, email_ids)
            setting = asyncio.create_task(set_hold(res, HoldOrder("one", "x", LastingFilter()), "ada"))
            await eventually(partial(is_waiting_for_a_lock, database))
            later = asyncio.create_task(held(res, *email_ids))
            await conn.execute(delete(IncomingEmail).where(IncomingEmail.id == email_ids[0]))
            is_set = setting.done()
        await setting

    assert (free, is_set) == ({}, False)
    assert await later == {email_ids[1]: ["one"]}


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ({"sender": BOB}, 1),
        ({"sender": "nobody@a.example"}, 0),
        ({"ticket": "7", "received_before": NOON - HOUR}, 1),
        ({"ticket": "7", "received_before": NOON - 3 * HOUR}, 0),
    ],
)
async def test_a_hold_is_not_said_to_match_nothing_where_the_message_matches(
    res: Resources, database: asyncpg.Connection, wanted: dict[str, Any], number: int
) -> None:
    """Lists know the webhook's sender and time alone."""
    email_id = await add(database, zendesk_ticket_id="7", from_email=ADA, received_at=NOON)
    await add_message(database, email_id, from_address=BOB, sent_at=NOON - 2 * HOUR, created_at=NOON)
    await add_hold(database, "lawsuit", wanted)

    hold = await get_hold(res.engine, "lawsuit")

    assert (hold.matching, bool(await held(res, email_id))) == (number, bool(number))


async def test_a_hold_that_covers_everything_says_what_it_was_set_for(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_hold(database, "unfit", {"sender": "Ada <ada@a.example>"})
    await add_hold(database, "fit", {"sender": ADA})

    unfit, fit = await get_hold(res.engine, "unfit"), await get_hold(res.engine, "fit")

    assert unfit.unfit
    assert (unfit.filter, unfit.unfit.sender) == (LastingFilter(), "Ada <ada@a.example>")
    assert (fit.filter, fit.unfit) == (LastingFilter(sender=ADA), None)


@pytest.mark.parametrize(
    "wanted", [LastingFilter(sender="bob@customer.example"), LastingFilter(received_after=NOON)]
)
async def test_what_a_filter_covers_stays_held_in_the_email_that_it_becomes_part_of(
    res: Resources, database: asyncpg.Connection, wanted: LastingFilter
) -> None:
    """Two webhooks about one comment may name two senders, and come at two times."""
    before = NOON - timedelta(hours=1)
    into = await add_email(database, from_email="ann@customer.example", received_at=before)
    gone = await add_email(database, from_email="bob@customer.example", received_at=NOON)
    other = await add_email(database, comment_id="816", from_email="ann@customer.example", received_at=before)
    await set_hold(res, HoldOrder("audit", "An audit.", wanted), "ada")

    async with connect(res.engine) as conn:
        await identity.merge(conn, into, gone)
        held = await holds_on(conn, [into, other])
        shown = await conn.scalar(select(HeldEmail.email_id))
    await release_hold(res, "audit", "ada", "Over.")

    assert (held, shown) == ({into: ["audit"]}, into)
    async with connect(res.engine) as conn:
        assert await holds_on(conn, [into]) == {}
