"""The comparison on the overview is accurate, and older e-mails are synced to a new target on request."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.postgres.engine import connect
from service.queries.comparison import ComparisonView, comparison_of
from service.reconcile.hourly import reconcile_hourly
from service.reconcile.run import RunOptions, reconcile
from service.resources import Resources, open_resources
from tests.conftest import Client, Server, eventually, serving, working
from tests.support.commands import command, typed
from tests.support.pages import read, words_of
from tests.support.rows import add_findings, add_many_finished, add_reconciliation
from tests.support.targets import Receiver, receiver, syncing

BEFORE = 30


@pytest.fixture(autouse=True)
async def empty(database: asyncpg.Connection) -> None:
    """Delete all e-mails and runs."""


@pytest.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    async with receiver() as kept:
        yield kept


async def compared(res: Resources, settings: Settings | None = None) -> ComparisonView:
    async with connect(res.engine) as conn:
        return await comparison_of(conn, settings or res.settings)


async def run(res: Resources, **options: Any) -> None:
    await reconcile(res, RunOptions("ada", **options), lambda _share, _seen: None)


def said(view: ComparisonView) -> str:
    """Join the sentences, without the time since the comparison."""
    return " ".join(view.summary).replace("Compared 0 s ago", "Compared now")


@asynccontextmanager
async def opened_with(settings: Settings, *urls: str) -> AsyncIterator[Resources]:
    async with open_resources(syncing(settings, *urls)) as res:
        yield res


# ── the comparison


async def test_nothing_is_compared_before_the_first_run(settings: Settings, res: Resources) -> None:
    never = settings.model_copy(update={"reconcile_hours": 0})

    assert said(await compared(res)) == "Not compared yet: a worker reconciles each hour."
    assert said(await compared(res, never)) == "Not compared yet: RECONCILE_HOURS is 0."


async def test_hourly_run_compares_the_last_24_hours_and_its_part_of_the_storage(
    settings: Settings, mongodb_server: str, documents: Any
) -> None:
    async with opened_with(settings, f"{mongodb_server}/holdfast.emails") as res:
        await reconcile_hourly(res)
        view = await compared(res)

    assert (view.target, view.storage_parts, view.whole_at) == ("compared", 1, None)
    assert view.compared == ["e-mails of the last 24 hours with MongoDB", "part 1 of 24 of the storage"]
    ago, _, rest = said(view).partition(": ")
    assert ago.startswith("Compared ")
    assert rest == (
        "e-mails of the last 24 hours with MongoDB and part 1 of 24 of the storage. No differences."
        " Older e-mails were never compared. 1 of 24 parts of the storage were compared in the last 25 hours."
    )


async def test_full_run_compares_everything_and_names_the_rest(
    settings: Settings, mongodb_server: str, documents: Any, database: asyncpg.Connection
) -> None:
    async with opened_with(settings, f"{mongodb_server}/holdfast.emails") as res:
        await add_many_finished(database, 3, "failed")
        await add_many_finished(database, 2, "pending")
        await run(res)
        view = await compared(res)

    assert view.compared == ["all e-mails with MongoDB", "the whole storage"]
    assert (view.storage_parts, view.whole_at is None) == (24, False)
    assert said(view).endswith("No differences. Not compared: 3 not synced, 2 pending.")


async def test_run_since_a_time_compares_only_e_mails_since_then(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    since = await database.fetchval("SELECT '2026-01-31 18:00Z'::timestamptz")
    await run(res, since=since)
    view = await compared(res)

    assert view.compared == ["the stored files of e-mails received since 2026-01-31 18:00 UTC"]
    assert "0 of 24 parts of the storage were compared in the last 25 hours." in view.summary


async def test_without_a_target_only_the_storage_is_compared(res: Resources) -> None:
    await run(res)
    view = await compared(res)

    assert (view.target, view.compared, view.not_sent) == ("none", ["the whole storage"], None)
    assert "MongoDB" not in said(view)
    assert "sync" not in said(view)


async def test_target_set_after_the_comparison_is_not_compared(
    settings: Settings, res: Resources, mongodb_server: str
) -> None:
    await run(res)
    view = await compared(res, syncing(settings, f"{mongodb_server}/holdfast.emails"))

    assert view.target == "not_compared"
    assert "MongoDB was not compared yet." in view.summary


async def test_webhook_is_never_compared_and_unsent_e_mails_are_counted(
    settings: Settings, endpoint: Receiver, database: asyncpg.Connection
) -> None:
    for status, count in (("not_applicable", 3), ("failed", 2), ("pending", 1), ("synced", 5)):
        await add_many_finished(database, count, status)
    async with opened_with(settings, endpoint.url) as res:
        before = await compared(res)
        await run(res)
        after = await compared(res)

    for view in (before, after):
        assert (view.target, view.not_sent, view.unsynced, view.pending) == ("cannot_be_compared", 6, 5, 1)
        assert "A webhook's receiver cannot be compared; 6 not sent yet." in view.summary
    assert after.compared == ["the whole storage"]
    assert after.differences == {"not_sent": 3}
    assert "Differs: 3 not sent to the webhook." in after.summary


async def test_earlier_differences_and_a_later_failure_are_shown(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_findings(database, await add_reconciliation(database, targets=None), "object_missing")
    failed = await add_reconciliation(database, status="failed", targets=None)
    view = await compared(res)

    assert view.failed_run_id == failed
    assert f"A later reconciliation failed: {failed}." in view.summary
    assert "Differs: 1 missing in the storage." in view.summary
    assert "No differences." not in view.summary


async def test_page_command_and_api_agree_and_the_page_offers_to_send(
    settings: Settings, zendesk: Zendesk, endpoint: Receiver, database: asyncpg.Connection
) -> None:
    await add_many_finished(database, 4, "not_applicable")
    settings = syncing(settings, endpoint.url)
    async with opened_with(settings, endpoint.url) as res:
        await run(res)
    async with serving(settings, zendesk) as client:
        overview = await client.get("/api/v1/overview")
        html = await read(client, "/")
        page = words_of(await read(client, "/reconciliations/1"))
        listed = words_of(await read(client, "/reconciliations"))
        plan = words_of(await read(client, "/retries/plan?what=sync"))
    status = await typed(settings, "status")
    shown = await typed(settings, "reconcile", "show", "1")

    sentence = "A webhook's receiver cannot be compared; 4 not sent yet."
    assert sentence in overview["comparison"]["summary"]
    assert sentence in words_of(html)
    assert sentence in status.stdout
    assert 'href="/retries/plan?what=sync">Send 4 …' in html
    assert (
        "Compared: the whole storage. A webhook's receiver cannot be compared; 4 were not sent yet at the end"
        in page
    )
    assert "the whole storage" in listed
    assert "Sync 4 e-mails?" in plan
    assert "webhook; a webhook's receiver cannot be compared, 4 not sent yet" in shown.stdout


# ── older e-mails


@asynccontextmanager
async def with_emails_before(settings: Settings, zendesk: Zendesk) -> AsyncIterator[None]:
    """Complete e-mails while no target is set."""
    async with serving(settings, zendesk) as client, working(settings):
        ids = [(await client.send(zendesk.payload()))["email_id"] for _ in range(BEFORE)]
        for email_id in ids:
            await client.until(email_id, "completed")
    yield


BRINGS = [("reconcile", "--fix"), ("emails", "sync", "--all", "--yes")]


@pytest.mark.parametrize("words", BRINGS, ids=["reconcile", "sync"])
async def test_e_mails_from_before_a_webhook_are_sent_to_it(
    settings: Settings, zendesk: Zendesk, endpoint: Receiver, words: tuple[str, ...]
) -> None:
    with_target = syncing(settings, endpoint.url)
    async with with_emails_before(settings, zendesk):
        done = await command(with_target, *words)
    async with working(with_target):

        async def all_there() -> bool:
            return len(endpoint.newest) == BEFORE

        await eventually(all_there)

    assert done.returncode == 0, done.stderr
    assert len(endpoint.messages) == BEFORE, "each was sent once"


@pytest.mark.parametrize("words", BRINGS, ids=["reconcile", "sync"])
async def test_e_mails_from_before_a_collection_are_written_to_it(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, words: tuple[str, ...]
) -> None:
    with_target = syncing(settings, f"{mongodb_server}/holdfast.emails")
    async with with_emails_before(settings, zendesk):
        done = await command(with_target, *words)
    async with working(with_target):

        async def all_there() -> bool:
            return bool(await documents.count_documents({"source": "holdfast"}) == BEFORE)

        await eventually(all_there)

    assert done.returncode == 0, done.stderr


async def test_new_webhook_beside_a_collection_gets_all_e_mails(
    settings: Settings,
    zendesk: Zendesk,
    mongodb_server: str,
    documents: Any,
    endpoint: Receiver,
    database: asyncpg.Connection,
) -> None:
    collection = f"{mongodb_server}/holdfast.emails"
    async with with_emails_before(syncing(settings, collection), zendesk):
        await database.execute("UPDATE incoming_emails SET sync_status = 'not_applicable'")
        both = syncing(settings, collection, endpoint.url)
        found = json.loads((await command(both, "reconcile", "--json")).stdout)
        async with working(both):
            fixed = await command(both, "reconcile", "--fix", "--wait", "--json")

    assert found["counts"] == {"not_sent": BEFORE}
    assert (fixed.returncode, json.loads(fixed.stdout)["repaired"]) == (0, {"not_sent": BEFORE})
    assert len(endpoint.newest) == BEFORE


async def test_sent_e_mail_is_no_difference_any_more(
    settings: Settings, endpoint: Receiver, database: asyncpg.Connection
) -> None:
    old, new = await add_many_finished(database, 2, "not_applicable")
    await database.execute(
        "UPDATE incoming_emails SET received_at = now() - interval '3 days' WHERE id = $1", old
    )
    async with opened_with(settings, endpoint.url) as res:
        await run(res)
        found = await compared(res)
        await database.execute("UPDATE incoming_emails SET sync_status = 'synced' WHERE id = $1", old)
        await reconcile_hourly(res)
        after = await compared(res)
        status = await database.fetchval("SELECT sync_status FROM incoming_emails WHERE id = $1", new)

    assert found.differences == {"not_sent": 2}
    assert after.differences == {}
    assert status == "pending", "the run of an hour sends what is new"


async def test_differences_of_a_removed_webhook_are_closed(
    settings: Settings, res: Resources, endpoint: Receiver, database: asyncpg.Connection
) -> None:
    await add_many_finished(database, 2, "not_applicable")
    async with opened_with(settings, endpoint.url) as there:
        await run(there)
    await reconcile_hourly(res)

    assert (await compared(res)).differences == {}


# ── the verdict


async def test_verdict_counts_webhooks_of_the_day_in_quarantine(
    client: Client, database: asyncpg.Connection
) -> None:
    await add_many_finished(database, 2)
    columns = "idempotency_key, raw_body, raw_headers, error_code, error, received_at"
    add = f"INSERT INTO quarantined_webhooks ({columns}) VALUES ($1, '', '[]', 'bad_json', 'It is cut off.', "
    await database.execute(f"{add} now() - interval '2 days')", "old")
    old = await client.get("/api/v1/overview")
    await database.execute(f"{add} now())", "new")
    new = await client.get("/api/v1/overview")

    assert (old["unread"], new["unread"]) == (0, 1)
    assert old["verdict"].startswith("All 2 e-mails of the last 24 hours are stored. 1 needs attention.")
    assert new["verdict"].startswith(
        "All 2 e-mails of the last 24 hours are stored; 1 webhook could not be parsed. 2 need attention."
    )


async def test_e_mail_queued_again_and_not_claimed_is_late(
    client: Server, database: asyncpg.Connection
) -> None:
    await add_many_finished(database, 1)
    await database.execute(
        "UPDATE incoming_emails SET processing_status = 'queued', attempt_number = 2,"
        " received_at = now() - interval '3 days', queued_at = now() + interval '1 h'"
    )
    pauses = await client.get("/api/v1/overview")
    await database.execute("UPDATE incoming_emails SET queued_at = now() - interval '2 h'")
    late = await client.get("/api/v1/overview")

    assert (pauses["state"], "1 in progress." in pauses["verdict"]) == ("safe", True)
    assert (late["state"], "Oldest waiting: 2 h." in late["verdict"]) == ("late", True)
