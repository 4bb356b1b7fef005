"""Lists of e-mails: who wrote about what, and why a row was found."""

import asyncpg

from tests.conftest import Server
from tests.support.pages import HOSTILE, read, words_of
from tests.support.rows import add, add_findings, add_reconciliation
from tests.support.source import say


async def test_lists_of_other_things_name_sender_and_subject_of_their_emails(
    client: Server, database: asyncpg.Connection
) -> None:
    webhook = await add(database, subject="Invoice 17", from_name="Ann", from_email="ann@a.example")
    fetched = await add(database, subject="Old", from_email="old@a.example")
    await say(database, fetched, "1", subject=f"Statement {HOSTILE}", from_address="bob@b.example")
    for email_id in (webhook, fetched):
        await add(database, "operator_actions", actor="Mara", action="retry", email_id=email_id)
    run_id = await add_reconciliation(database)
    await add_findings(database, run_id, "missing")
    await database.execute("UPDATE reconciliation_findings SET email_id = $1", fetched)

    activity = words_of(await read(client, "/activity"))
    run = await read(client, f"/reconciliations/{run_id}")

    assert f"e-mail {webhook} Ann : Invoice 17" in activity
    assert f"e-mail {fetched} bob@b.example : Statement" in activity
    assert f"e-mail {fetched} bob@b.example : Statement" in words_of(run)
    assert "<img src=x" not in run


async def test_a_row_shows_why_a_search_found_it(client: Server, database: asyncpg.Connection) -> None:
    await add(database, subject="The Invoice of May", zendesk_ticket_id="1")
    await add(database, subject="Hello", from_name="The invoice team")

    page = await read(client, "/emails?q=invoice")

    assert 'href="/emails/1"><bdi>The <mark>Invoice</mark> of May</bdi></a>' in page
    assert "<b>from</b> <bdi>The <mark>invoice</mark> team</bdi>" in page


async def test_a_bulk_retry_ends_with_what_became_of_its_emails(
    client: Server, database: asyncpg.Connection
) -> None:
    repaired = await add(database, subject="Paid", from_name="Ann", processing_status="completed")
    failed = await add(database, subject="Lost", processing_status="failed", error_code="attachment_gone")
    about = {"actor": "Mara", "filter": '{"status": "failed"}', "per_second": 20, "planned_capped": False}
    numbers = {"planned": 3, "retried": 3, "repaired": 1, "failed_again": 1}
    first = await add(database, "bulk_retries", **about, **numbers)
    other = await add(database, "bulk_retries", **about, planned=0)
    for bulk, email_id, outcome in (
        (first, repaired, "repaired"),
        (first, failed, "failed_again"),
        (other, failed, "repaired"),
    ):
        action = {"actor": "Mara", "action": "retry", "bulk_retry_id": bulk}
        await add(database, "operator_actions", **action, email_id=email_id, outcome=outcome)

    words = words_of(await read(client, f"/retries/{first}"))
    await read(client, "/retries/99", status=404)

    assert "3 of 3" in words
    assert "1 is still running. 1 completed, 1 failed again." in words
    assert (
        f"Failed again 1 E-mail Now e-mail {failed} unknown sender : Lost A file was deleted in Zendesk attachment_gone"
        in words
    )
    assert f"Repaired 1 E-mail e-mail {repaired} Ann : Paid" in words
