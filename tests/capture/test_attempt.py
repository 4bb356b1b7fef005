"""One attempt: the outcome of each kind of response; only missing files are fetched."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from arq.worker import Worker

from service.capture.attempt import process
from service.config.settings import Settings
from service.errors import Transient
from service.jobs import identity
from service.jobs.arrival import Arrival, receive
from service.local.zendesk.stand_in import Fault, Zendesk
from service.postgres.engine import connect, transaction
from service.resources import Resources, open_resources
from service.zendesk.messages import read_page
from tests.conftest import Client, eventually, serving, working
from tests.support.files import PDF
from tests.support.proxy import before_postgres
from tests.support.rows import add, is_waiting_for_a_lock


async def captured(client: Client, *urls: str, **more: Any) -> dict[str, Any]:
    receipt = await client.send(client.zendesk.payload(attachments=urls, **more))
    return await client.until(receipt["email_id"], "completed", "failed")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=403), "forbidden"),
        (Fault(status=404), "not_found"),
        (Fault(status=410), "attachment_gone"),
        (Fault(status=404, at_cdn=True), "not_found"),
        (Fault(sign_in=True), "sign_in_page"),
        (Fault(redacted=True), "redacted"),
        (Fault(status=302, headers={"Location": "http://example.com/x"}), "address_refused"),
    ],
)
async def test_a_permanent_error_fails_the_job_at_once_with_a_reason(
    client: Client, worker: Worker, zendesk: Zendesk, fault: Fault, code: str
) -> None:
    email = await captured(
        # Twice: after a sign-in page the file is requested again with a new access token.
        client,
        zendesk.add_file("invoice.pdf", PDF, content_type="application/pdf", faults=[fault, fault]),
    )

    assert (email["processing_status"], email["error_code"], email["retry_count"]) == ("failed", code, 0)
    assert email["processing_error"]
    assert [a["status"] for a in email["attachments"]] == ["failed"]
    assert [a["error_code"] for a in email["attachments"]] == [code]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(status=500),
        Fault(status=503, at_cdn=True),
        Fault(reset_after=1000),
    ],
)
async def test_a_transient_error_leads_to_another_attempt(
    client: Client, worker: Worker, zendesk: Zendesk, fault: Fault
) -> None:
    email = await captured(client, zendesk.add_file("invoice.pdf", PDF, faults=[fault]))

    assert (email["processing_status"], email["retry_count"], email["error_code"]) == ("completed", 1, None)
    assert [attempt["outcome"] for attempt in email["attempts"]] == ["released", "completed"]
    assert [attempt["number"] for attempt in email["attempts"]] == [1, 2]


async def test_an_exhausted_budget_fails_the_job(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    settings = settings.model_copy(update={"max_retries": 2})
    faults = [Fault(status=503)] * 10
    async with serving(settings, zendesk) as client, working(settings):
        email = await captured(client, zendesk.add_file("invoice.pdf", PDF, faults=faults))

    assert (email["processing_status"], email["retry_count"], email["error_code"]) == (
        "failed",
        2,
        "server_error",
    )
    assert [attempt["outcome"] for attempt in email["attempts"]] == ["released", "released", "failed"]
    assert email["attachments"][0]["status"] == "failed"


async def test_one_bad_file_does_not_affect_the_others(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    good, bad = (
        zendesk.add_file("good.pdf", PDF),
        zendesk.add_file("bad.pdf", PDF, faults=[Fault(status=404)]),
    )

    email = await captured(client, good, bad, zendesk.add_file("also-good.csv", b"a,b\n"))

    assert email["processing_status"] == "failed"
    assert [a["status"] for a in email["attachments"]] == ["stored", "failed", "stored"]


async def test_a_second_attempt_fetches_only_missing_files(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    good = zendesk.add_file("good.pdf", PDF)
    flaky = zendesk.add_file("flaky.pdf", PDF[::-1], faults=[Fault(status=503)])

    email = await captured(client, good, flaky)

    assert email["processing_status"] == "completed"
    assert (zendesk.file(good).requests, zendesk.file(flaky).requests) == (1, 2)


async def test_an_operators_retry_fetches_only_failed_files(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    good, bad = (
        zendesk.add_file("good.pdf", PDF),
        zendesk.add_file("bad.pdf", b"x", faults=[Fault(status=404)]),
    )
    email = await captured(client, good, bad)

    await client.post(f"/api/v1/emails/{email['id']}/retry")
    email = await client.until(email["id"], "completed", "failed")

    assert (email["processing_status"], email["retry_count"]) == ("completed", 0)
    assert zendesk.file(good).requests == 1
    assert [attempt["outcome"] for attempt in email["attempts"]] == ["failed", "completed"]


async def test_credentials_are_sent_to_the_account_and_never_to_the_cdn(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    email = await captured(client, zendesk.add_file("invoice.pdf", PDF))

    assert email["processing_status"] == "completed"  # the account refuses requests without them
    assert zendesk.state.cdn_authorizations == []


async def test_a_file_announced_without_an_address_gets_it_from_the_api(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    files = [zendesk.add_file("invoice.pdf", PDF), zendesk.add_file("logo.png", PDF + b"x")]
    zendesk.add_comment(4711, attachments=files)
    payload = zendesk.payload() | {"attachments": [{"filename": "invoice.pdf"}, {"url": "", "filename": ""}]}

    email_id = (await client.send(payload))["email_id"]
    email = await client.until(email_id, "completed", "failed")

    assert email["processing_status"] == "completed", email["processing_error"]
    assert [file["file_name"] for file in email["attachments"]] == ["invoice.pdf", "logo.png"]


async def test_a_file_without_an_address_that_zendesk_does_not_list_fails(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    zendesk.add_comment(4711, attachments=[zendesk.add_file("other.pdf", PDF)])
    payload = zendesk.payload() | {"attachments": [{"filename": "invoice.pdf"}]}

    email_id = (await client.send(payload))["email_id"]
    email = await client.until(email_id, "completed", "failed")

    assert (email["processing_status"], email["error_code"]) == ("failed", "bad_url")
    assert [file["status"] for file in email["attachments"]] == ["failed", "stored"]


async def test_two_workers_and_two_messages_make_one_attempt(
    settings: Settings, client: Client, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    receipt = await client.send(zendesk.payload(attachments=[zendesk.add_file("invoice.pdf", PDF)]))

    await asyncio.gather(*(process(res, receipt["email_id"], 1) for _ in range(20)))

    assert await database.fetchval("SELECT count(*) FROM attempts") == 1
    assert (await client.email(receipt["email_id"]))["processing_status"] == "completed"


async def test_a_lease_is_renewed_during_a_long_attempt(
    client: Client, worker: Worker, zendesk: Zendesk, settings: Settings
) -> None:
    slow = Fault(pause_after=1000)
    receipt = await client.send(
        zendesk.payload(attachments=[zendesk.add_file("slow.pdf", PDF, faults=[slow])])
    )
    await slow.paused.wait()
    first = (await client.email(receipt["email_id"]))["lease_until"]

    async def renewed() -> bool:
        return bool((await client.email(receipt["email_id"]))["lease_until"] > first)

    await eventually(renewed)
    slow.resume.set()
    email = await client.until(receipt["email_id"], "completed", "failed")

    assert (email["processing_status"], len(email["attempts"])) == ("completed", 1)


async def test_an_attempt_that_takes_too_long_is_released(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    settings = settings.model_copy(update={"attempt_seconds": 3})
    stuck = zendesk.add_file("stuck.pdf", PDF, faults=[Fault(pause_after=10)])
    async with serving(settings, zendesk) as client, working(settings):
        email = await captured(client, zendesk.add_file("fine.pdf", PDF[:-1]), stuck)

    # On a busy machine, the second attempt may take too long, too.
    *released, _ = email["attempts"]
    assert (email["processing_status"], email["retry_count"]) == ("completed", len(released))
    assert {attempt["error_code"] for attempt in released} == {"attempt_timeout"}
    assert zendesk.file(stuck).requests >= 2


async def test_a_cancelled_attempt_is_handed_back_and_costs_no_retry(
    client: Client, zendesk: Zendesk, settings: Settings
) -> None:
    stuck = Fault(pause_after=10)
    receipt = await client.send(
        zendesk.payload(attachments=[zendesk.add_file("stuck.pdf", PDF, faults=[stuck])])
    )
    async with open_resources(settings) as res:
        attempt = asyncio.create_task(process(res, receipt["email_id"], 1))
        await stuck.paused.wait()
        attempt.cancel()
        await asyncio.wait({attempt})

    email = await client.email(receipt["email_id"])
    assert attempt.cancelled()
    assert (email["processing_status"], email["retry_count"]) == ("queued", 0)
    assert email["attempts"][0]["outcome"] == "handed_back"


async def test_a_webhook_that_only_names_a_comment_gets_its_files_from_the_api(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    files = [zendesk.add_file("invoice.pdf", PDF), zendesk.add_file("logo.png", b"\x89PNG\r\n\x1a\n")]
    comment_id = zendesk.add_comment(77, attachments=files[:1], inline=files[1:])
    zendesk.add_comment(77)

    receipt = await client.send({"ticket_id": "77", "comment_id": str(comment_id)})
    email = await client.until(receipt["email_id"], "completed", "failed")

    assert email["processing_status"] == "completed", email
    assert [a["file_name"] for a in email["attachments"]] == ["invoice.pdf", "logo.png"]
    assert [a["size"] for a in email["attachments"]] == [len(PDF), 8]


async def test_a_missing_comment_is_looked_up_again(client: Client, worker: Worker, zendesk: Zendesk) -> None:
    zendesk.add_comment(77)
    receipt = await client.send({"ticket_id": 77, "comment_id": 999_999})

    email = await client.until(receipt["email_id"], "completed", "failed")

    assert (email["error_code"], email["retry_count"]) == ("comment_not_found", 5)


async def test_a_webhook_that_names_no_comment_leads_to_all_emails_of_its_time(
    client: Client, worker: Worker, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Two quick e-mails may announce each other, so those of the last hour are kept; those of yesterday are not."""
    now = datetime.now(UTC)
    for name, age in (("old", 26), ("also old", 25), ("first", 0.01), ("second", 0)):
        zendesk.add_comment(
            77, attachments=[zendesk.add_file(name, PDF)], created_at=now - timedelta(hours=age)
        )

    for body in ({"ticket_id": 77, "comment_id": ""}, {"ticket_id": 77}):
        await client.send(body)
    await eventually(
        lambda: database.fetchval(
            "SELECT count(*) = 2 FROM incoming_emails WHERE processing_status = 'completed'"
        )
    )

    files = await database.fetch("SELECT array_agg(file_name) AS names FROM attachments GROUP BY email_id")
    assert sorted(row["names"] for row in files) == [["first"], ["second"]]
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 2


async def test_a_webhook_that_names_no_comment_gets_the_newest_earlier_one(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    now = datetime.now(UTC)
    for name, age in (("old", 26), ("newest", 25), ("later", -3)):
        zendesk.add_comment(
            77, attachments=[zendesk.add_file(name, PDF)], created_at=now - timedelta(hours=age)
        )

    email_id = (await client.send({"ticket_id": 77}))["email_id"]
    email = await client.until(email_id, "completed", "failed")

    assert [file["file_name"] for file in email["attachments"]] == ["newest"]


async def test_without_credentials_a_webhook_without_a_list_of_files_fails_with_advice(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    without = settings.model_copy(
        update={"zendesk_oauth_client_id": None, "zendesk_oauth_client_secret": None}
    )
    bodies = {"files_unknown": {"ticket_id": 77}, "credentials_missing": {"ticket_id": 77, "comment_id": 1}}
    async with serving(without, zendesk) as client, working(without):
        for code, body in bodies.items():
            email_id = (await client.send(body))["email_id"]
            email = await client.until(email_id, "completed", "failed")
            assert (email["processing_status"], email["error_code"]) == ("failed", code)
            assert "ZENDESK_OAUTH_CLIENT_ID" in email["processing_error"]
        none = await client.send({"ticket_id": 77, "attachments": []})
        assert (await client.until(none["email_id"], "completed", "failed"))[
            "processing_status"
        ] == "completed"


async def test_the_files_of_a_comment_are_recorded_all_or_none(
    client: Client, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """An attempt that knew only some of the files would complete without the others."""
    comment_id = zendesk.add_comment(77, attachments=[zendesk.add_file(name, PDF) for name in "abc"])
    email_id = (await client.send({"ticket_id": 77, "comment_id": comment_id}))["email_id"]
    await database.execute("ALTER TABLE attachments ADD CONSTRAINT broken CHECK (position < 2)")
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(process(res, email_id, 1), 1)
        recorded = await database.fetchval("SELECT count(*) FROM attachments")
    finally:
        await database.execute("ALTER TABLE attachments DROP CONSTRAINT broken")

    assert recorded == 0


@pytest.mark.parametrize("answer", [{}, {"comments": 7}, {"comments": [{"id": 1, "attachments": 7}]}])
def test_a_malformed_response_of_the_comments_api_is_transient(answer: dict[str, object]) -> None:
    with pytest.raises(Transient) as caught:
        read_page(answer)

    assert caught.value.code == "bad_response"


async def test_a_connection_that_breaks_after_the_claim_costs_no_attempt(
    client: Client, zendesk: Zendesk, settings: Settings
) -> None:
    url = zendesk.add_file("a.pdf", b"%PDF-1.7" * 100)
    async with before_postgres(settings.model_copy(update={"max_retries": 0})) as (proxy, proxied):
        proxy.trip(b"SELECT attachments.email_id", arrives=False, cuts=False)
        emails = [(await client.send(zendesk.payload(attachments=[url])))["email_id"] for _ in range(20)]
        async with working(proxied):
            ends = [await client.until(email, "completed", "failed") for email in emails]

    assert proxy.sprung.is_set()
    assert [email["processing_status"] for email in ends] == ["completed"] * 20
    assert [len(email["attempts"]) for email in ends] == [1] * 20


async def test_images_in_the_html_of_a_comment_are_files(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    listed, shown, linked = (
        zendesk.add_file(name, PDF + name.encode()) for name in ("a.png", "b.png", "c.pdf")
    )
    html = (
        f'<div class="zd-comment"><img src="{listed}"><img src="{shown.replace("?", "?x=1&amp;")}">'
        f'<a href="{linked}">c.pdf</a><img src="https://tracker.example/pixel.gif">'
        f'<a href="{zendesk.url}/agent/tickets/77">the ticket</a></div>'
    )
    comment_id = zendesk.add_comment(77, attachments=[listed], html_body=html)

    email_id = (await client.send({"ticket_id": 77, "comment_id": comment_id}))["email_id"]
    email = await client.until(email_id, "completed", "failed")

    assert email["processing_status"] == "completed", email["processing_error"]
    assert [file["file_name"] for file in email["attachments"]] == ["a.png", "b.png", "c.pdf"]


@pytest.mark.parametrize("more", [{"signature_hash": b"s" * 32}, {}])
async def test_a_redelivery_during_the_merge_of_its_email_becomes_no_second_one(
    res: Resources, database: asyncpg.Connection, more: dict[str, Any]
) -> None:
    """It names no comment, and its insert waits for the row that the merge deletes."""
    older = await add(database, idempotency_key="older", raw_body=b"{}", raw_headers="[]")
    columns = {"idempotency_key": "one", "zendesk_ticket_id": "1", "raw_body": b"[]", **more}
    gone = await add(database, raw_headers="[]", **columns)
    async with connect(res.engine) as conn, transaction(conn):
        await identity.merge(conn, older, gone)
        again = Arrival({**columns, "raw_headers": [], "attachment_urls": []})
        inserted = asyncio.create_task(res.run(lambda own: receive(own, [again])))
        await eventually(partial(is_waiting_for_a_lock, database))
    (recorded,) = await inserted
    assert recorded.is_new

    assert recorded.job is not None
    await process(res, recorded.job.email_id, recorded.job.attempt_number)

    assert await database.fetch("SELECT id FROM incoming_emails") == [(older,)]
    assert await database.fetch("SELECT email_id, raw_body FROM announcements") == [(older, b"[]")]
    names = await database.fetch("SELECT email_id FROM merged_emails")
    assert names == [(older,), (older,)]


async def test_files_wait_while_the_volume_is_not_mounted(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection, tmp_path: Path
) -> None:
    """A process starts before the volume of its files is mounted."""
    storage, volume = tmp_path / "objects", tmp_path / "volume"
    async with serving(settings, zendesk) as client, working(settings):
        await captured(client, zendesk.add_file("first.pdf", PDF))
    await asyncio.to_thread(storage.rename, volume)
    await asyncio.to_thread(storage.mkdir)
    async with serving(settings, zendesk) as client, working(settings):
        receipt = await client.send(
            client.zendesk.payload(attachments=(zendesk.add_file("b.pdf", PDF + b"b"),))
        )

        async def waits() -> bool:
            email = await client.email(receipt["email_id"])
            return bool(email["error_code"] == "storage_unavailable")

        await eventually(waits)
        assert await asyncio.to_thread(lambda: [*storage.iterdir()]) == []
        await asyncio.to_thread(storage.rmdir)
        await asyncio.to_thread(volume.rename, storage)
        email = await client.until(receipt["email_id"], "completed", "failed")

    assert email["processing_status"] == "completed"
    assert len(await asyncio.to_thread(lambda: [*storage.glob("sha256/*/*")])) == 2


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_the_reason_of_a_failed_email_counts_each_file_once(
    number: int, client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    teapots = [Fault(status=418), Fault(status=418)]
    urls = [zendesk.add_file(f"{name}.pdf", PDF, faults=teapots) for name in range(number)]
    urls.append(zendesk.add_file("fine.pdf", PDF))

    email = await captured(client, *urls)

    assert (email["processing_status"], email["error_code"]) == ("failed", "unexpected_status")
    more = f" (and {number - 1} more of its files)" if number > 1 else ""
    assert email["processing_error"] == f"127.0.0.1 answered 418{more}"
