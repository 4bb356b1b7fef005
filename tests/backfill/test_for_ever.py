"""A worker searches at its start and after an outage of Postgres, as webhooks were lost meanwhile."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from service.backfill import run
from service.backfill.run import backfill_for_ever
from service.config.settings import Settings
from service.errors import Transient
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources, background, open_resources
from service.telemetry import logs
from tests.conftest import eventually, program
from tests.support.backfill import comments, steps, without_pause
from tests.support.processes import ARQ
from tests.support.proxy import before_postgres

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "IDLE_SECONDS", 0.05)


@asynccontextmanager
async def searching(res: Resources) -> AsyncIterator[None]:
    async with background(lambda: backfill_for_ever(res)):
        yield


def has(database: asyncpg.Connection, comment_id: int) -> Callable[[], Awaitable[bool]]:
    async def has_it() -> bool:
        return str(comment_id) in await comments(database)

    return has_it


async def test_a_worker_searches_when_it_starts(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Also if the next search is not due, and not if the last one ended within a minute."""
    await steps(res)
    comment_id = zendesk.add_email(77)
    await database.execute("UPDATE sources SET checked_at = now() - interval '2 minutes'")

    async with searching(res):
        await eventually(has(database, comment_id))

    assert await database.fetchval("SELECT count(*) FROM backfills") == 2


async def test_workers_that_start_together_search_once(
    res: Resources, settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    comment_id = zendesk.add_email(77)

    async with open_resources(settings) as other, searching(res), searching(other):
        await eventually(has(database, comment_id))

    assert await database.fetchval("SELECT count(*) FROM backfills") == 1


async def test_an_outage_of_postgres_makes_a_search_due(
    settings: Settings,
    res: Resources,
    zendesk: Zendesk,
    database: asyncpg.Connection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def met() -> bool:
        return "backfill_put_off" in capsys.readouterr().out

    logs.configure("json", "INFO")  # to the output that is captured
    brief = settings.model_copy(update={"database_seconds": 1})
    async with before_postgres(brief) as (proxy, through), open_resources(through) as away, searching(away):
        await eventually(has(database, zendesk.add_email(77)))
        comment_id = zendesk.add_email(77)
        await database.execute("UPDATE sources SET checked_at = now() - interval '2 minutes'")
        proxy.cut()
        await eventually(met)
        await proxy.resume()
        await eventually(has(database, comment_id))


async def test_a_search_survives_the_kill_of_its_worker(
    settings: Settings, res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Killed at any call of it; the e-mails that it found are completed once."""
    zendesk.state.listings.closed = 403
    made = [zendesk.add_email(number) for number in range(1, 41)]
    for calls in (2, 10, 5):
        zendesk.state.api_faults += [*(Fault() for _ in range(calls)), Fault(delay_seconds=60)]
        async with program(*ARQ, settings=settings) as worker:
            await eventually(lambda: nothing_left(zendesk))
            worker.kill()
        await without_pause(database, zendesk)

    async with program(*ARQ, settings=settings):
        await eventually(lambda: completed(database, len(made)))

    assert await comments(database) == [str(number) for number in made]


async def nothing_left(zendesk: Zendesk) -> bool:
    return not zendesk.state.api_faults


async def completed(database: asyncpg.Connection, number: int) -> bool:
    query = "SELECT count(*) FROM incoming_emails WHERE processing_status = 'completed'"
    return bool(await database.fetchval(query) == number)


async def test_a_connection_that_breaks_within_a_page_leaves_nothing_half_done(
    settings: Settings, res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Whether Postgres had the statement or not; the next process that looks goes on."""
    made = [zendesk.add_email(number) for number in range(1, 6)]
    async with before_postgres(settings) as (proxy, through), open_resources(through) as away:
        for number in range(8):
            proxy.trip(b"9005", arrives=bool(number % 2), cuts=False, skip=number // 2)
            with suppress(Transient):
                await steps(away)
            await database.execute("UPDATE sources SET due_at = now(), lease_until = NULL")
    await steps(res)
    listed = await database.fetchval("SELECT count(*) FROM source_emails")

    assert await comments(database) == [str(number) for number in made]
    assert listed == 5
