"""Outcomes of the e-mails of a bulk retry: each is counted once, when it ends, and shown everywhere."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.operate import bulk_retry, outcomes
from service.operate.retry import retry
from service.postgres.selection import BulkTask, Selection
from service.queries.retries import BulkRetryView
from service.resources import Resources
from tests.conftest import ROOT, Server, environment, eventually, serving, working
from tests.support import forked
from tests.support.commands import command, typed
from tests.support.files import PDF
from tests.support.pages import read, words_of
from tests.support.retries import FAILED, all_steps, begin, show
from tests.support.rows import add_many_failed
from tests.support.targets import receiver, synced, syncing


@pytest.fixture(autouse=True)
async def empty(database: asyncpg.Connection) -> None:
    """Start without e-mails."""


async def queue_all(
    res: Resources, database: asyncpg.Connection, wanted: Selection = FAILED, what: Any = "job"
) -> int:
    """Begin a bulk retry, and queue all its e-mails."""
    number = await bulk_retry.start(res, wanted, 1000, "ada (tests)", BulkTask(what=what))
    await all_steps(res, database)
    return number


async def end(database: asyncpg.Connection, *ids: int, status: str = "completed") -> None:
    """End jobs at a time in the past."""
    await database.execute(
        "UPDATE incoming_emails SET processing_status = $2, completed_at = now() - interval '1 ms'"
        " WHERE id = ANY($1)",
        ids,
        status,
    )


async def look(res: Resources, database: asyncpg.Connection) -> None:
    """Examine all e-mails of all bulk retries at once."""
    await database.execute("UPDATE bulk_retries SET look_at = now(), look_place = 0")
    while await outcomes.step(res):
        pass


def counts(seen: BulkRetryView) -> tuple[int, int, int, int]:
    return seen.repaired, seen.failed_again, seen.superseded, seen.still_running


async def test_the_counts_change_as_the_jobs_end(res: Resources, database: asyncpg.Connection) -> None:
    ids = await add_many_failed(database, 6)
    number = await begin(res, FAILED)
    untouched = await show(res, number)
    await all_steps(res, database)
    await look(res, database)
    queued = await show(res, number)
    await end(database, *ids[:3])
    await end(database, ids[3], status="failed")
    await database.execute(
        "UPDATE incoming_emails SET processing_status = 'processing' WHERE id = $1", ids[4]
    )
    await look(res, database)
    some = await show(res, number)
    await end(database, *ids[4:])
    await look(res, database)
    every = await show(res, number)

    assert (counts(untouched), untouched.settled_at) == ((0, 0, 0, 0), None)
    assert (counts(queued), queued.settled_at) == ((0, 0, 0, 6), None)
    assert (counts(some), some.settled_at) == ((3, 1, 0, 2), None)
    assert counts(every) == (5, 1, 0, 0)
    assert every.settled_at is not None
    assert not await outcomes.step(res), "nothing is left to be looked at"


async def test_a_running_bulk_retry_is_not_settled_when_its_queued_jobs_have_ended(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_failed(database, 3)
    number = await begin(res, FAILED, 2)
    await bulk_retry.step(res)
    await end(database, *ids[1:])
    await look(res, database)
    half = await show(res, number)
    await database.execute("UPDATE bulk_retries SET next_at = now()")
    await all_steps(res, database)
    await end(database, ids[0])
    await look(res, database)

    assert (counts(half), half.status, half.settled_at) == ((2, 0, 0, 0), "running", None)
    whole = await show(res, number)
    assert (counts(whole), whole.settled_at is None) == ((3, 0, 0, 0), False)


async def test_each_email_counts_once_with_many_concurrent_workers(
    res: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "STEP_LEASE", timedelta(0))  # so that all of them claim the same step
    monkeypatch.setattr(outcomes, "ROUND", timedelta(0))
    ids = await add_many_failed(database, 50)
    number = await queue_all(res, database)
    await end(database, *ids[:30])
    await end(database, *ids[30:], status="failed")

    await asyncio.gather(*(outcomes.step(res) for _ in range(10)))
    await look(res, database)

    assert counts(await show(res, number)) == (30, 20, 0, 0)


async def test_more_emails_than_one_step_examines_are_all_counted(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_failed(database, 2 * outcomes.BATCH + 500)
    number = await queue_all(res, database)
    await end(database, *ids[outcomes.BATCH :])  # the newest were queued first; the oldest are still running
    await look(res, database)
    some = await show(res, number)
    await end(database, *ids)
    await look(res, database)

    assert counts(some) == (outcomes.BATCH + 500, 0, 0, outcomes.BATCH)
    every = await show(res, number)
    assert (counts(every), every.settled_at is None) == ((2 * outcomes.BATCH + 500, 0, 0, 0), False)


async def test_an_email_of_two_retries_counts_for_the_newest_one(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_failed(database, 3)
    first = await queue_all(res, database)
    await end(database, ids[0], status="failed")
    await look(res, database)  # the first retry knows one outcome: failed again
    await end(database, *ids, status="failed")
    second = await queue_all(res, database)
    await end(database, *ids)
    await look(res, database)

    assert counts(await show(res, first)) == (0, 1, 2, 0)
    assert counts(await show(res, second)) == (3, 0, 0, 0)


async def test_a_single_retry_supersedes_an_outcome_and_a_sync_does_not(
    res: Resources, database: asyncpg.Connection
) -> None:
    by_hand, resynced = await add_many_failed(database, 2)
    number = await queue_all(res, database)
    await end(database, by_hand, resynced)
    await retry(res, by_hand, "bob (tests)")
    await database.execute(
        "INSERT INTO operator_actions (actor, action, email_id) VALUES ('bob', 'sync', $1)", resynced
    )
    await look(res, database)

    assert counts(await show(res, number)) == (1, 0, 1, 0)


async def test_outcomes_of_syncs_are_counted_too(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    with_target = Resources(**{**vars(res), "settings": syncing(settings, "https://erp.example/in")})
    ids = await add_many_failed(database, 5, sync_status="failed")
    number = await queue_all(with_target, database, Selection(), "sync")
    states = ("synced", "failed", "not_applicable", "pending", "synced")
    for email_id, state in zip(ids, states, strict=True):
        await database.execute("UPDATE incoming_emails SET sync_status = $2 WHERE id = $1", email_id, state)
    # A retried job starts its sync again, too.
    await database.execute("UPDATE incoming_emails SET processing_status = 'queued' WHERE id = $1", ids[4])
    await look(res, database)

    seen = await show(res, number)
    assert (seen.what, counts(seen)) == ("sync", (1, 2, 0, 2))


async def test_a_bulk_retry_without_recorded_outcomes_is_counted_by_the_known_states(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_failed(database, 4)
    number = await queue_all(res, database)
    await end(database, *ids)
    await database.execute("UPDATE operator_actions SET outcome = NULL")
    await database.execute("UPDATE bulk_retries SET settled_at = NULL, repaired = 0")
    await database.execute("DELETE FROM incoming_emails WHERE id = $1", ids[0])

    await look(res, database)

    seen = await show(res, number)
    assert (counts(seen), seen.settled_at is None) == ((3, 0, 1, 0), False)


async def test_a_worker_records_outcomes_and_command_api_and_page_show_them(
    settings: Settings, zendesk: Zendesk
) -> None:
    async with serving(settings, zendesk) as client, working(settings):
        good = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=410)])
        bad = zendesk.add_file("b.pdf", PDF, faults=[Fault(status=410)] * 9)
        ids = [
            (await client.send(zendesk.payload(attachments=[url])))["email_id"] for url in (good, good, bad)
        ]
        for email_id in ids:
            await client.until(email_id, "completed", "failed")
        repaired = await command(settings, "emails", "retry", "--all", "--yes", "--wait", "--json")
        told = await client.get("/api/v1/retries/1")
        page = words_of(await read(client, "/retries"))
        show = await command(settings, "retries", "show", "1")
        waited = await command(settings, "retries", "wait", "1")
        listed = await command(settings, "retries", "list")

    seen = json.loads(repaired.stdout)
    assert (repaired.returncode, waited.returncode) == (3, 3), "one failed again"
    assert seen == told
    assert seen["repaired"] + seen["failed_again"] == seen["retried"]
    assert (seen["failed_again"], seen["still_running"], seen["superseded"]) == (1, 0, 0)
    assert f"{seen['repaired']} completed 1 failed again 0 still running" in page
    said = f"{seen['repaired']} repaired, 1 failed again, 0 still running"
    assert f"\n{said}.\n" in show.stdout
    assert said in listed.stdout


async def test_a_bulk_retry_succeeds_if_all_emails_are_repaired_and_none_is_unknown(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_failed(database, 2)
    number = str(await queue_all(res, database))
    await end(database, *ids)
    await look(res, database)
    good = await typed(settings, "retries", "wait", number)
    await database.execute("UPDATE bulk_retries SET repaired = 1, superseded = 1")
    unknown = await typed(settings, "retries", "wait", number, "--json")
    await database.execute("UPDATE bulk_retries SET status = 'cancelled'")
    cancelled = await typed(settings, "retries", "wait", number)
    missing = await typed(settings, "retries", "wait", "99")

    assert (good.returncode, good.stdout.splitlines()[1]) == (
        0,
        "2 repaired, 0 failed again, 0 still running.",
    )
    assert (unknown.returncode, json.loads(unknown.stdout)["superseded"]) == (1, 1)
    assert cancelled.returncode == 1
    assert "1 repaired, 0 failed again, 0 still running, 1 retried again by another." in cancelled.stdout
    assert (missing.returncode, missing.stderr) == (
        1,
        "There is no bulk retry 99. `holdfast retries list` lists the newest.\n",
    )


async def test_waiting_without_a_worker_is_reported(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_failed(database, 1)
    number = await queue_all(res, database)

    waits = await forked.create_subprocess_exec(
        *(sys.executable, "-m", "service", "retries", "wait", str(number)),
        cwd=ROOT,
        env=environment(settings),
        stderr=PIPE,
    )
    assert waits.stderr is not None
    said = await waits.stderr.readline()
    await end(database, *ids)
    await look(res, database)
    code = await waits.wait()

    assert said == b"No worker is alive: start one with `holdfast worker`.\n"
    assert code == 0


async def test_a_bulk_retry_of_syncs_is_shown_too(settings: Settings, zendesk: Zendesk) -> None:
    async with receiver() as target:
        target.statuses = [422, 422]
        settings = syncing(settings, target.url)
        async with serving(settings, zendesk) as client, working(settings):
            ids = [(await client.send(zendesk.payload()))["email_id"] for _ in range(2)]
            for email_id in ids:
                await synced(client, email_id, "failed")
            done = await command(settings, "emails", "sync", "--all", "--yes", "--wait")
            page = await eventually_settled(client)

    assert done.returncode == 0
    assert "2 synced, 0 failed again, 0 still running.\n" in done.stdout
    assert "2 synced 0 failed again 0 still running" in page


async def eventually_settled(client: Server) -> str:
    async def told() -> str | None:
        page = words_of(await read(client, "/retries"))
        return page if "0 still running" in page else None

    return await eventually(told)
