"""Alerts about what Zendesk has: lost webhooks, a search that does not end, suspended e-mails."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service.alerts import source
from service.alerts.condition import Condition
from service.backfill.run import account_of, step
from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.postgres.engine import connect
from service.resources import Resources
from tests.conftest import Client
from tests.support.backfill import make_due, search, steps, without_pause
from tests.support.files import PDF
from tests.support.rows import add

HOUR = timedelta(hours=1)


@pytest.fixture
def settings(settings: Settings, zendesk: Zendesk) -> Settings:
    zendesk.state.listings.hidden_seconds = 0
    return settings.model_copy(update={"backfill_minutes": 5})


async def find(res: Resources) -> dict[str, Condition]:
    async with connect(res.engine) as conn:
        return {each.cause: each for each in await source.find(conn, res.settings)}


async def test_an_account_that_is_searched_causes_no_alert(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.add_email(77, created_at=datetime.now(UTC) - timedelta(days=3))
    await steps(res)

    assert await find(res) == {}


async def test_a_lost_webhook_is_an_e_mail_of_zendesk_that_none_announced_for_ten_minutes(
    res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Older than the first webhook, or announced meanwhile, or too young: these are not lost."""
    now = datetime.now(UTC)
    announced = zendesk.add_email(1, created_at=now - 2 * HOUR)
    await client.send(zendesk.announcement(1, announced))
    await database.execute("UPDATE incoming_emails SET received_at = now() - interval '2 hours'")
    zendesk.add_email(2, created_at=now - 3 * HOUR)
    lost = zendesk.add_email(3, created_at=now - HOUR)
    late = zendesk.add_email(4, created_at=now - HOUR)
    zendesk.add_email(5, created_at=now - timedelta(minutes=5))
    await steps(res)
    first = (await find(res))["lost"]

    await client.send(zendesk.announcement(4, late))
    then = (await find(res))["lost"]
    email_id = await database.fetchval("SELECT id FROM incoming_emails WHERE comment_id = $1", str(lost))

    assert (first.count, then.count) == (2, 1)
    assert then.email_id == email_id
    assert "without a webhook: 1 e-mail, the last at" in then.detail


async def test_without_any_webhook_all_since_the_first_search_are_lost(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    now = datetime.now(UTC)
    for ago in (3 * HOUR, HOUR):
        zendesk.add_email(77, created_at=now - ago)
    await steps(res)
    await database.execute("UPDATE sources SET began_at = now() - interval '2 hours'")

    assert (await find(res))["lost"].count == 1


async def test_an_e_mail_that_a_look_up_found_is_lost_too(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, raw_body=b"{}", received_at=datetime.now(UTC) - 3 * HOUR)
    await add(database, origin="lookup", sent_at=datetime.now(UTC) - HOUR)

    assert (await find(res))["lost"].count == 1


async def test_lost_webhooks_are_told_for_a_day(res: Resources, database: asyncpg.Connection) -> None:
    now = datetime.now(UTC)
    await add(database, raw_body=b"{}", received_at=now - timedelta(days=9))
    await add(
        database, origin="backfill", sent_at=now - timedelta(days=3), received_at=now - timedelta(days=2)
    )
    old = await find(res)
    await add(database, origin="backfill", sent_at=now - timedelta(days=3), received_at=now - HOUR)

    assert (old, (await find(res))["lost"].count) == ({}, 1)


async def test_a_search_that_does_not_end_is_told_after_half_an_hour(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    await steps(res)
    await make_due(database)
    zendesk.state.api_faults.append(Fault(status=500))
    await step(res)
    early = await find(res)
    await database.execute("UPDATE sources SET failed_at = now() - interval '31 minutes'")
    late = await find(res)
    await search(res, database, zendesk)
    ended = await find(res)
    await database.execute("UPDATE sources SET checked_at = now() - interval '31 minutes'")
    silent = await find(res)

    assert (early, ended) == ({}, {})
    assert "server_error" in late["backfill"].detail
    assert "Its latest error" not in silent["backfill"].detail


async def test_a_longer_pause_has_more_time(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    await database.execute(
        "INSERT INTO sources (account, checked_at) VALUES ($1, now() - interval '2 hours')", account_of(res)
    )
    found = []
    async with connect(res.engine) as conn:
        for minutes in (0, 30, 60):
            changed = settings.model_copy(update={"backfill_minutes": minutes})
            found.append([each.cause for each in await source.find(conn, changed)])

    assert found == [[], ["backfill"], []]


async def test_suspended_e_mails_that_cannot_be_kept_for_a_day_are_told(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The searches go on meanwhile, so that no other alert is open."""
    await steps(res)
    url = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=503)])
    zendesk.suspend(created_at=datetime.now(UTC) - timedelta(days=2), attachments=[url])
    await database.execute("UPDATE sources SET suspended_at = now() - interval '25 hours'")
    await step(res)
    late = await find(res)
    await without_pause(database, zendesk)
    await steps(res)

    assert late.keys() == {"suspended"}
    assert (late["suspended"].key, "server_error" in late["suspended"].detail) == ("late", True)
    assert await find(res) == {}


async def test_suspended_e_mails_are_told_for_a_day(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.suspend(created_at=datetime.now(UTC) - timedelta(days=3))
    await steps(res)
    old = await find(res)
    zendesk.suspend(subject="Secret of a customer")
    await make_due(database, hourly=True)
    await steps(res)
    new = (await find(res))["suspended"]
    await database.execute("UPDATE suspended_emails SET gone_at = now()")

    assert old == {}
    assert new.count == 1
    assert "Secret" not in new.detail + new.summary
    assert await find(res) == {}
