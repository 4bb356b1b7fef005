"""Files of which Zendesk tells more after the first download: their size, or another address."""

from typing import Any

import asyncpg
import pytest
from arq.worker import Worker

from service.capture.attempt import process
from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources
from tests.conftest import Client, serving
from tests.support.evidence import codes, place_all
from tests.support.files import PDF
from tests.support.removing import remove_object_files

ENDS = ("completed", "failed")
PAGE = b"<!DOCTYPE html><title>Service unavailable</title>"


def announced(zendesk: Zendesk, kind: str, url: str, ticket_id: int = 77) -> dict[str, Any]:
    """Return a webhook that tells the address of a file, and not its size: of a trigger, or of an event."""
    comment_id = str(zendesk.add_email(ticket_id, attachments=[url]))
    if kind == "event":
        sent = zendesk.event(url, ticket_id=ticket_id)
        sent["event"]["comment"]["id"] = comment_id
        return sent
    files = [{"url": url, "filename": zendesk.file(url).name}]
    return {"ticket_id": str(ticket_id), "comment_id": comment_id, "attachments": files}


def instead(body: bytes) -> Fault:
    return Fault(status=200, headers={"Content-Type": "text/html"}, body=body, at_cdn=True)


async def files(database: asyncpg.Connection) -> list[tuple[Any, ...]]:
    rows = await database.fetch(
        "SELECT status, error_code, size, declared_size FROM attachments ORDER BY position"
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("kind", ["trigger", "event"])
@pytest.mark.parametrize("body", [PAGE, b"", PDF[:50_000]], ids=["page", "nothing", "half"])
async def test_a_size_that_zendesk_tells_after_the_download_counts(
    client: Client,
    worker: Worker,
    zendesk: Zendesk,
    res: Resources,
    database: asyncpg.Connection,
    body: bytes,
    kind: str,
) -> None:
    url = zendesk.add_file("invoice.pdf", PDF, content_type="application/pdf", faults=[instead(body)])

    receipt = await client.send(announced(zendesk, kind, url))
    email = await client.until(receipt["email_id"], *ENDS)

    assert (email["processing_status"], len(email["attempts"])) == ("completed", 1)
    assert await files(database) == [("stored", None, len(PDF), len(PDF))]
    await database.execute("UPDATE loose_objects SET due_at = now()")
    await remove_object_files(res, database)
    kept = await database.fetch("SELECT object_key FROM attachments UNION SELECT record_key FROM messages")
    removed = await database.fetch("SELECT key FROM objects_to_remove WHERE state = 'removed'")
    assert len(removed) == 1
    assert not {*kept} & {*removed}
    await place_all(res, wants_head=True)
    assert await codes(res) == set()


async def test_a_file_that_has_another_size_each_time_fails_as_one_whose_size_was_known(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    url = zendesk.add_file("invoice.pdf", PDF, faults=[instead(PAGE), instead(PAGE)])

    receipt = await client.send(announced(zendesk, "trigger", url))
    email = await client.until(receipt["email_id"], *ENDS)

    assert (email["processing_status"], email["error_code"]) == ("failed", "size_mismatch")
    assert len(email["attempts"]) == 1
    assert await files(database) == [("stored", "size_mismatch", len(PAGE), len(PDF))]
    await client.post(f"/api/v1/emails/{receipt['email_id']}/retry")
    await client.until(receipt["email_id"], "completed")
    assert await files(database) == [("stored", None, len(PDF), len(PDF))]


async def test_each_attempt_compares_the_sizes_of_stored_files(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The worker may have died after the look-up, or another one may have looked up the ticket meanwhile."""
    url = zendesk.add_file("invoice.pdf", PDF, faults=[instead(PAGE)])
    sent = announced(zendesk, "trigger", url)
    zendesk.state.comments["77"].clear()
    del sent["comment_id"]  # nothing tells the size
    receipt = await client.send(sent)
    await client.until(receipt["email_id"], "completed")
    assert await files(database) == [("stored", None, len(PAGE), None)]
    await database.execute("UPDATE attachments SET declared_size = $1", len(PDF))

    await client.post(f"/api/v1/emails/{receipt['email_id']}/retry")
    await client.until(receipt["email_id"], "completed")

    assert await files(database) == [("stored", None, len(PDF), len(PDF))]


async def test_a_size_that_zendesk_tells_replaces_that_of_the_webhook(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    url = zendesk.add_file("invoice.pdf", PDF)
    sent = announced(zendesk, "trigger", url)
    sent["attachments"][0]["size"] = len(PDF) + 1

    receipt = await client.send(sent)
    email = await client.until(receipt["email_id"], *ENDS)
    assert (email["processing_status"], email["error_code"]) == ("failed", "size_mismatch")
    await client.post(f"/api/v1/emails/{receipt['email_id']}/retry")
    await client.until(receipt["email_id"], "completed")

    assert await files(database) == [("stored", None, len(PDF), len(PDF))]


async def test_the_size_of_a_redacted_file_says_nothing_about_its_stored_copy(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    url = zendesk.add_file("invoice.pdf", PDF)
    zendesk.state.api_faults.append(Fault(status=503))
    async with serving(settings, zendesk) as client:
        await client.send(announced(zendesk, "event", url))
        await process(res, 1, 1)
        zendesk.state.redact(url)
        await process(res, 1, 2)

    assert await database.fetchval("SELECT processing_status FROM incoming_emails") == "completed"
    assert await files(database) == [("stored", None, len(PDF), None)]


@pytest.mark.parametrize("kind", ["trigger", "event"])
async def test_a_dead_address_without_a_size_gets_a_new_one_from_the_list(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection, kind: str
) -> None:
    url = zendesk.add_file("a.pdf", PDF)
    sent = announced(zendesk, kind, url)
    zendesk.state.expire(url)

    receipt = await client.send(sent)
    email = await client.until(receipt["email_id"], *ENDS)

    assert (email["processing_status"], email["retry_count"]) == ("completed", 0)
    assert await files(database) == [("stored", None, len(PDF), len(PDF))]


async def attempts_at_a_dead_address(
    settings: Settings, zendesk: Zendesk, res: Resources, failures: int
) -> None:
    """Let an address die, and so many look-ups after that fail; one look-up has told it before."""
    url = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=503)])
    async with serving(settings, zendesk) as client:
        await client.send(zendesk.announcement(77, zendesk.add_email(77, attachments=[url])))
        await process(res, 1, 1)
        zendesk.state.expire(url)
        zendesk.state.api_faults.extend(Fault(status=503) for _ in range(failures))
        for number in range(2, failures + 3):
            await process(res, 1, number)


async def test_no_file_is_given_up_while_a_look_up_may_still_tell_its_new_address(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    await attempts_at_a_dead_address(settings, zendesk, res, 2)

    assert await database.fetchval("SELECT processing_status FROM incoming_emails") == "completed"
    assert await files(database) == [("stored", None, len(PDF), len(PDF))]


async def test_a_file_at_a_dead_address_fails_with_the_last_look_up(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    await attempts_at_a_dead_address(settings, zendesk, res, settings.max_retries)

    assert await database.fetchval("SELECT processing_status FROM incoming_emails") == "failed"
    assert await files(database) == [("failed", "not_found", None, len(PDF))]


@pytest.mark.parametrize("end", ["same", "gone", "redacted"])
async def test_a_stored_file_of_another_size_stays_until_another_content_comes(
    client: Client,
    worker: Worker,
    zendesk: Zendesk,
    res: Resources,
    database: asyncpg.Connection,
    end: str,
) -> None:
    """Zendesk may tell a wrong size: the file is right, and nobody may lose it."""
    url = zendesk.add_file("invoice.pdf", PDF)
    sent = announced(zendesk, "trigger", url)
    receipt = await client.send(sent)
    await client.until(receipt["email_id"], "completed")
    await database.execute("UPDATE attachments SET declared_size = $1", len(PDF) + 1)
    comment: Any = zendesk.state.comments["77"][0]
    for listed in comment["attachments"]:
        listed["size"] = len(PDF) + 1
    if end == "redacted":
        zendesk.state.redact(url)
    elif end == "gone":
        zendesk.delete_ticket(77, forever=True)

    await client.post(f"/api/v1/emails/{receipt['email_id']}/retry")
    email = await client.until(receipt["email_id"], *ENDS)

    assert email["processing_status"] == "failed"
    (file,) = email["attachments"]
    assert (file["status"], file["size"], file["error_code"] is None) == ("stored", len(PDF), False)
    assert file["href"]
    await database.execute("UPDATE loose_objects SET due_at = now()")
    await remove_object_files(res, database)
    removed = await database.fetch("SELECT key FROM objects_to_remove WHERE state = 'removed'")
    assert file["object_key"] not in {key for (key,) in removed}
    await place_all(res, wants_head=True)
    assert await codes(res) == set()
