"""The time in the queue counts from when the last attempt was due."""

from typing import Any

import asyncpg

from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.operate.retry import retry
from service.resources import Resources
from tests.conftest import Server, eventually, serving, working
from tests.support.files import PDF


async def age(database: asyncpg.Connection, email_id: int) -> None:
    """Move its receipt, its queueing and its start two days into the past."""
    shifted = (
        f"{name} = {name} - interval '2 days'"
        for name in ("received_at", "queued_at", "started_at", "completed_at")
    )
    await database.execute(f"UPDATE incoming_emails SET {', '.join(shifted)} WHERE id = $1", email_id)


async def times(client: Server) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/api/v1/overview"))["times"]
    return found


async def test_the_days_after_a_failure_are_not_counted(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    url = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=410)])
    async with serving(settings, zendesk) as client:
        email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
        async with working(settings):
            failed = await client.until(email_id, "failed")
            await age(database, email_id)
            shifted = await client.email(email_id)
            await retry(res, email_id, "ada (tests)")
            done = await client.until(email_id, "completed")
        received = "UPDATE incoming_emails SET received_at = now() - interval '12 h'"
        await database.execute(received)  # so that it counts among the last 24 hours
        of_the_day = await times(client)

    assert failed["queue_seconds"] == shifted["queue_seconds"] < 60
    assert done["attempt_number"] == 2
    assert 0 <= done["queue_seconds"] < 60
    assert of_the_day["queue_p95"] < 60
    assert of_the_day["processing_p95"] < 60


async def test_the_backoff_before_another_attempt_is_not_counted(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    settings = settings.model_copy(update={"retry_min_seconds": 600, "retry_max_seconds": 1200})
    url = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=500)])
    async with serving(settings, zendesk) as client, working(settings):
        email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]

        async def pauses() -> dict[str, Any] | None:
            email = await client.email(email_id)
            return email if email["retry_count"] else None

        waiting = await eventually(pauses)
        # The backoff ends; the sweep finds the job due.
        await database.execute(
            "UPDATE incoming_emails SET due_at = now(), queued_at = now(), received_at = received_at - interval '1 h'"
        )
        done = await client.until(email_id, "completed")

    assert waiting["queued_at"] == waiting["due_at"]
    assert waiting["queue_seconds"] is None, "the next attempt waits still"
    assert 0 <= done["queue_seconds"] < 60


async def test_a_first_attempt_waits_from_the_receipt(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    async with serving(settings, zendesk) as client:
        email_id = (await client.send(zendesk.payload()))["email_id"]
        waiting = await client.email(email_id)
        await database.execute(
            "UPDATE incoming_emails SET received_at = received_at - interval '2 h', queued_at = queued_at - interval '2 h'"
        )
        async with working(settings):
            done = await client.until(email_id, "completed")

    assert waiting["queue_seconds"] is None
    assert waiting["queued_at"] == waiting["received_at"]
    assert 7_200 <= done["queue_seconds"] < 7_300


async def test_rows_without_a_queue_time_count_for_first_attempts_only(
    client: Server, database: asyncpg.Connection
) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, attempt_number, received_at, queued_at,"
        " started_at, completed_at) SELECT i::text, 'completed', i, now() - interval '1 h', NULL,"
        " now() - interval '50 min', now() - interval '49 min' FROM generate_series(1, 2) AS i"
    )

    once, twice = [await client.email(email_id) for email_id in (1, 2)]

    assert (once["queue_seconds"], twice["queue_seconds"]) == (600, None)
    assert (await times(client))["queue_p50"] == 600
