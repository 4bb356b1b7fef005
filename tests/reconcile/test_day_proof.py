"""The daily proof: Zendesk's own search finds tickets without an e-mail here, and shakes the verdict."""

import asyncio
import json
from datetime import UTC, date, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.config.settings import Settings
from service.custody import receipts
from service.custody.removal import remove
from service.errors import Transient
from service.local.zendesk.stand_in import Fault, Zendesk
from service.queries.source import Ledger, get_ledger
from service.reconcile import day_proof, recount
from service.resources import Resources, open_resources
from service.zendesk.ticket_search import PAGE_SIZE, cursor_of, read_found
from tests.support.rows import add
from tests.support.source import account_key, add_source, asking, keep, noon, today, use_budget


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return asking(settings)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run soon after midnight, and wait for nothing between two pages."""
    monkeypatch.setattr(day_proof, "AFTER", timedelta())
    monkeypatch.setattr(day_proof, "PAGE_SECONDS", 0.0)


@pytest.fixture
async def yesterday(settings: Settings, database: asyncpg.Connection, res: Resources) -> date:
    """Let the account be searched until now, and be recounted."""
    now = await database.fetchval("SELECT now()")
    await add_source(database, account_key(settings), watermark=now, checked_at=now)
    while await recount.step(res):
        pass
    return await today(database) - timedelta(days=1)


def open_tickets(zendesk: Zendesk, day: date, *numbers: int) -> None:
    for number in numbers:
        zendesk.add_email(number, created_at=noon(day))


async def ledger(res: Resources) -> Ledger:
    return await get_ledger(res.engine, res.settings)


async def test_each_ticket_that_an_e_mail_opened_must_have_an_e_mail(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, yesterday: date
) -> None:
    open_tickets(zendesk, yesterday, 1, 2, 3)
    open_tickets(zendesk, yesterday - timedelta(days=1), 4)
    open_tickets(zendesk, yesterday + timedelta(days=1), 5)
    zendesk.add_email(6, created_at=noon(yesterday), channel="web")
    await keep(database, "1", "1")
    await keep(database, "2", "2", account_id=None)

    assert await day_proof.prove(res)
    before = await ledger(res)
    await keep(database, "3", "3")
    after = await ledger(res)

    [source] = before.accounts
    assert source.proof is not None
    assert source.proof.search is not None
    assert (source.proof.search.tickets, source.proof.search.without) == (3, ["3"])
    assert (before.state, before.unknown_tickets) == ("incomplete", 1)
    assert before.verdict.startswith("1 ticket that an e-mail opened in Zendesk has no e-mail here.")
    assert any("knows 3 tickets that e-mails opened on" in each for each in source.sentences)
    assert (after.state, after.unknown_tickets) == ("complete", 0)


async def test_a_day_is_proved_once_and_by_one_worker(
    res: Resources, zendesk: Zendesk, yesterday: date
) -> None:
    open_tickets(zendesk, yesterday, *range(1, PAGE_SIZE + 2))

    proved = await asyncio.gather(*(day_proof.prove(res) for _ in range(3)))

    assert sorted(proved) == [False, False, True]
    assert not await day_proof.prove(res)
    assert zendesk.state.calls["search/export"] == 2
    [source] = (await ledger(res)).accounts
    assert source.proof is not None
    assert source.proof.search is not None
    assert (source.proof.search.without_count, len(source.proof.search.without)) == (PAGE_SIZE + 1, 100)


async def test_an_outage_puts_the_proof_off_and_hides_nothing(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, yesterday: date
) -> None:
    zendesk.state.api_faults.append(Fault(status=503))
    with pytest.raises(Transient):
        await day_proof.prove(res)
    [meanwhile] = (await ledger(res)).accounts
    at_once = await day_proof.prove(res)
    await database.execute(
        "UPDATE sources SET proof = jsonb_set(proof::jsonb, '{search,until}', to_jsonb(now() - interval '1 s'))::json"
    )

    assert meanwhile.proof is not None
    assert meanwhile.proof.search is None
    assert (at_once, await day_proof.prove(res)) == (False, True)


async def test_a_rate_limit_puts_a_page_off_and_repeats_no_other(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, yesterday: date
) -> None:
    open_tickets(zendesk, yesterday, *range(1, PAGE_SIZE + 2))
    limited = Fault(status=429, headers={"Retry-After": "1"})
    zendesk.state.api_faults += [Fault(), limited]

    assert await day_proof.prove(res)
    assert zendesk.state.calls["search/export"] == 3
    assert (await proof(database))["tickets"] == PAGE_SIZE + 1


async def test_half_of_the_calls_are_left_to_others(
    settings: Settings,
    res: Resources,
    database: asyncpg.Connection,
    zendesk: Zendesk,
    yesterday: date,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(day_proof, "MOST_WAIT", timedelta())
    await use_budget(database, settings, 0.6)

    with pytest.raises(Transient) as caught:
        await day_proof.prove(res)
    assert (caught.value.code, zendesk.state.calls["search/export"]) == ("rate_limited", 0)


async def test_a_proof_ends_where_another_worker_has_it(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, yesterday: date
) -> None:
    open_tickets(zendesk, yesterday, *range(1, PAGE_SIZE + 2))
    claim = await day_proof._claim(res)
    assert claim is not None
    await database.execute(
        "UPDATE sources SET proof = jsonb_set(proof::jsonb, '{search,number}', '99')::json"
    )

    with pytest.raises(Transient) as caught:
        await day_proof._search(res, claim, [])
    assert caught.value.code == "lease_lost"
    assert zendesk.state.calls["search/export"] == 0


@pytest.mark.parametrize(
    "meta",
    [
        None,
        [],
        {},
        {"has_more": "no"},
        {"has_more": True},
        {"has_more": True, "after_cursor": ""},
        {"has_more": True, "after_cursor": 7},
        {"has_more": True, "after_cursor": "x" * 10_000},
    ],
)
def test_an_answer_without_its_next_page_is_an_error(meta: Any) -> None:
    with pytest.raises(Transient, match="The search API did not"):
        cursor_of({"meta": meta})


async def test_a_refusal_is_said_and_not_repeated(res: Resources, zendesk: Zendesk, yesterday: date) -> None:
    zendesk.state.api_faults.append(Fault(status=403))

    assert await day_proof.prove(res)
    assert not await day_proof.prove(res)
    found = await ledger(res)
    assert found.state == "complete"
    assert any("search for the tickets of" in each for each in found.accounts[0].sentences)


async def days_pass(database: asyncpg.Connection, days: int) -> None:
    """Let the newest proof be so many days older, and what it found as well."""
    await database.execute(
        "UPDATE sources SET proof = jsonb_set(jsonb_set(proof::jsonb,"
        " '{search,day}', to_jsonb((proof -> 'search' ->> 'day')::date - $1::int)),"
        " '{search,asked_on}', to_jsonb((proof -> 'search' ->> 'asked_on')::date - $1::int))::json",
        days,
    )


async def proof(database: asyncpg.Connection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await database.fetchval("SELECT proof -> 'search' FROM sources"))
    return found


@pytest.mark.parametrize("status", [None, 403])
async def test_an_unknown_ticket_stays_known_until_its_e_mail_is_here(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, yesterday: date, status: int | None
) -> None:
    """Also where Zendesk refuses the next proof."""
    open_tickets(zendesk, yesterday, 1, 2)
    await day_proof.prove(res)
    zendesk.state.tickets.clear()
    await days_pass(database, 1)
    await keep(database, "1", "1")
    if status:
        zendesk.state.api_faults.append(Fault(status=status))

    assert await day_proof.prove(res)
    found = await proof(database)
    assert (found["day"], found["without"], found["without_count"]) == (yesterday.isoformat(), ["2"], 1)
    assert (await ledger(res)).unknown_tickets == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_ticket_whose_e_mail_was_purged_is_not_unknown(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, yesterday: date, when: str
) -> None:
    """A retention rule may keep e-mails for a day: nobody can bring them back."""
    open_tickets(zendesk, yesterday, 1, 2)
    if when == "after":
        await day_proof.prove(res)
    for ticket in ("1", "2"):
        email_id = await keep(database, ticket, ticket)
        receipt_id = await res.run(lambda conn: receipts.begin(conn, "purge", "tests"))
        await res.run(partial(remove, email_ids=[email_id], receipt_id=receipt_id))
        await receipts.finish(res, receipt_id)
    if when == "before":
        await day_proof.prove(res)

    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0
    assert (await ledger(res)).unknown_tickets == 0


async def test_missed_days_are_proved_later_in_their_order(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, yesterday: date
) -> None:
    await day_proof.prove(res)
    await days_pass(database, 3)
    open_tickets(zendesk, yesterday - timedelta(days=1), 7)

    proved = []
    while await day_proof.prove(res):
        proved.append((await proof(database))["day"])

    assert proved == [(yesterday - timedelta(days=ago)).isoformat() for ago in (2, 1, 0)]
    assert (await proof(database))["without"] == ["7"]


@pytest.mark.parametrize("status", [403, None])
async def test_a_day_that_was_not_proved_is_proved_again_on_the_next_day(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, yesterday: date, status: int | None
) -> None:
    """Nothing is forgotten of a refused day, nor of one with more unknown tickets than a proof keeps."""
    await day_proof.prove(res)
    await days_pass(database, 2)
    open_tickets(zendesk, yesterday - timedelta(days=1), *range(1, day_proof.MOST_KEPT + 2))
    zendesk.state.api_faults += [Fault(status=status)] if status else []
    await day_proof.prove(res)
    at_once = await day_proof.prove(res)
    await database.execute(
        "UPDATE sources SET proof = jsonb_set(proof::jsonb, '{search,asked_on}', '\"2026-01-01\"')::json"
    )

    assert not at_once
    assert await day_proof.prove(res)
    assert (await proof(database))["day"] == (yesterday - timedelta(days=1)).isoformat()
    assert (await proof(database))["without_count"] == day_proof.MOST_KEPT + 1


@pytest.mark.parametrize(
    "change",
    [
        "proof_day = proof_day - interval '1 day'",
        "complete_since = now()",
        "watermark = now() - interval '25 hours'",
        "account = 'other.example'",
    ],
)
async def test_only_a_day_that_was_searched_whole_is_proved(
    res: Resources, database: asyncpg.Connection, yesterday: date, change: str
) -> None:
    await database.execute(f"UPDATE sources SET {change}")

    assert not await day_proof.prove(res)


async def test_a_day_of_which_the_searches_found_nothing_is_proved(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, settings: Settings, yesterday: date
) -> None:
    """The watermark stays: an export that is silent without a reason would never be noticed."""
    open_tickets(zendesk, yesterday, 7)
    await database.execute("UPDATE sources SET watermark = now() - interval '3 days'")
    times = dict.fromkeys(("since", "started_at", "finished_at"), noon(yesterday + timedelta(days=1)))
    await add(database, "backfills", account=account_key(settings), kind="current", leg="events", **times)

    assert await day_proof.prove(res)
    assert (await proof(database))["without"] == ["7"]


async def test_without_back_fill_nobody_asks(
    res: Resources, zendesk: Zendesk, settings: Settings, yesterday: date
) -> None:
    async with open_resources(settings.model_copy(update={"backfill_minutes": 0})) as off:
        assert not await day_proof.prove(off)

    assert zendesk.state.calls["search/export"] == 0


async def test_the_next_recount_keeps_the_proof(
    res: Resources, database: asyncpg.Connection, yesterday: date
) -> None:
    await day_proof.prove(res)
    await database.execute("UPDATE sources SET proof_day = proof_day - interval '1 day'")
    while await recount.step(res):
        pass

    assert json.loads(await database.fetchval("SELECT proof -> 'search' FROM sources"))["tickets"] == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
)
RESULT = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON | st.integers(1, 10**14) | st.sampled_from(["\0", "1\0", "\ud800", "9" * 200]),
        "created_at": JSON | st.just("2026-01-31T12:00:00Z"),
        "via": JSON | st.just({"channel": "email"}),
    },
)


@given(results=st.lists(RESULT | JSON, max_size=6) | JSON)
def test_any_answer_gives_tickets_or_a_stable_error(results: Any) -> None:
    if not isinstance(results, list):
        with pytest.raises(Transient, match="did not answer with results"):
            read_found({"results": results})
        return
    found = read_found({"results": results})

    for ticket in found:
        assert 0 < len(ticket.ticket_id) <= 100
        assert "\0" not in ticket.ticket_id
        assert ticket.ticket_id.encode().decode() == ticket.ticket_id
        assert ticket.created_at.astimezone(UTC).date() <= date.max
