"""The daily recount finds every comment without an e-mail, once a day, and goes on after a crash."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service.config.settings import Settings
from service.queries.source import Ledger, get_ledger
from service.reconcile import recount
from service.resources import Resources
from tests.support.source import ACCOUNT_ID, account_key, add_source, asking, keep

COMMENTS = 2 * recount.STEP + 7


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return asking(settings)


@pytest.fixture
async def account(settings: Settings, database: asyncpg.Connection) -> str:
    """Let Zendesk list many comments: every thousandth is missing here, and not every webhook named the account."""
    account = account_key(settings)
    await add_source(database, account)
    await database.execute(
        "INSERT INTO source_emails (account, ticket_id, comment_id, created_at)"
        " SELECT $1, (i % 97)::text, i::text, now() - interval '9 days' FROM generate_series(1, $2) AS i",
        account,
        COMMENTS,
    )
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, comment_id, account_id, identified, processing_status)"
        " SELECT (i % 97)::text, i::text, CASE WHEN i % 3 = 0 THEN NULL ELSE $1 END, true, 'completed'"
        " FROM generate_series(1, $2) AS i WHERE i % 1000 <> 0",
        ACCOUNT_ID,
        COMMENTS,
    )
    return account


async def recounted(res: Resources) -> int:
    """Run all steps that are due; return their number."""
    steps = 0
    while await recount.step(res):
        steps += 1
    return steps


async def ledger(res: Resources) -> Ledger:
    return await get_ledger(res.engine, res.settings)


async def let_leases_end(database: asyncpg.Connection) -> None:
    await database.execute(
        "UPDATE sources SET proof = jsonb_set(proof::jsonb, '{run,until}', to_jsonb(now() - interval '1 s'))::json"
    )


async def test_a_recount_finds_all_that_is_missing_once_a_day(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    steps = await recounted(res)
    again = await recounted(res)
    found = await ledger(res)
    await database.execute("UPDATE sources SET proof_day = proof_day - interval '1 day'")
    next_day = await recounted(res)

    [source] = found.accounts
    assert source.proof is not None
    assert (steps, again, next_day) == (3, 0, 3)
    assert (source.proof.compared, source.proof.missing_count) == (COMMENTS, 4)
    assert sorted(int(comment) for _, comment in source.proof.missing) == [1000, 2000, 3000, 4000]
    assert found.missing == 4


async def test_what_was_found_since_is_missing_no_more(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    await recounted(res)
    for number in (1000, 2000):
        await keep(database, str(number % 97), str(number))

    assert (await ledger(res)).missing == 2


async def test_a_worker_goes_on_where_another_died(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    assert await recount.step(res)
    lost = await res.run(recount._claim)  # this worker dies with its claim
    assert lost is not None
    assert not await recount.step(res)  # nobody else may go on meanwhile
    await let_leases_end(database)

    await recounted(res)

    [source] = (await ledger(res)).accounts
    assert source.proof is not None
    assert (source.proof.compared, source.proof.missing_count) == (COMMENTS, 4)


async def test_a_late_worker_writes_nothing(
    res: Resources, database: asyncpg.Connection, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ended, and another worker has claimed the step: the fencing token stops it."""
    claim = await res.run(recount._claim)
    await let_leases_end(database)
    await recounted(res)
    before = await database.fetchval("SELECT proof::text FROM sources")

    async def late(_conn: object) -> object:
        return claim

    monkeypatch.setattr(recount, "_claim", late)
    await recount.step(res)

    assert await database.fetchval("SELECT proof::text FROM sources") == before


async def test_workers_at_the_same_time_count_nothing_twice(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    while any(await asyncio.gather(*(recount.step(res) for _ in range(3)))):
        pass

    [source] = (await ledger(res)).accounts
    assert source.proof is not None
    assert (source.proof.compared, source.proof.missing_count) == (COMMENTS, 4)


async def test_an_account_that_was_never_searched_is_not_recounted(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_source(database, account_key(res.settings), checked_at=None)

    assert await recounted(res) == 0


async def test_after_a_recount_the_promise_is_of_all(
    res: Resources, database: asyncpg.Connection, account: str
) -> None:
    since = datetime.now(UTC) - timedelta(days=300)
    await database.execute("UPDATE sources SET complete_since = $1", since)
    await database.execute("DELETE FROM source_emails WHERE comment_id::int % 1000 = 0")
    await recounted(res)

    found = await ledger(res)
    assert (found.state, found.since) == ("complete", since)
