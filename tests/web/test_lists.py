"""Lists of e-mails: who wrote about what, and why a row was found."""

import asyncpg

from service.resources import Resources
from tests.conftest import Server
from tests.support.api import post_as_operator
from tests.support.pages import HOSTILE, asking, press, read, words_of
from tests.support.retries import all_steps
from tests.support.rows import add, add_failed, add_findings, add_reconciliation
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

    assert 'href="/emails/1?q=invoice"><bdi>The <mark>Invoice</mark> of May</bdi></a>' in page
    assert "<b>from</b> <bdi>The <mark>invoice</mark> team</bdi>" in page


async def test_the_page_of_an_email_follows_the_list_that_it_was_opened_from(
    client: Server, database: asyncpg.Connection
) -> None:
    for number in range(1, 6):
        status = "failed" if number % 2 else "completed"
        await add(database, subject=str(number), processing_status=status, from_email="a&b@a.example")
    listed = "status=failed&sender=a%26b%40a.example".replace("&", "&amp;")

    rows = await read(client, "/emails?status=failed&sender=a%26b%40a.example")
    among = await read(client, "/emails/3?status=failed&sender=a%26b%40a.example&view=text")
    at_the_end = await read(client, "/emails/1?status=failed&notice=retry")
    elsewhere = [await read(client, f"/emails/3?{query}") for query in ("status=completed", "status=x", "q=")]

    assert f'href="/emails/3?{listed}"' in rows
    assert f'<a href="/emails/5?{listed}" rel="prev">&lsaquo; Previous</a>' in among
    assert f'<a href="/emails?{listed}">2 of 3 in the list</a>' in among
    assert f'<a href="/emails/1?{listed}" rel="next">Next &rsaquo;</a>' in among
    assert ("3 of 3 in the list" in at_the_end, 'rel="next"' in at_the_end) == (True, False)
    assert all('<a href="/emails/4" rel="prev">&lsaquo; Newer</a>' in page for page in elsewhere)


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


# ── selected e-mails


async def test_selected_emails_have_a_plan_that_says_what_is_left_out(
    client: Server, res: Resources, database: asyncpg.Connection
) -> None:
    failed = [await add_failed(database, "1 hour") for _ in range(3)]
    running = await add(database, processing_status="processing", lease_until=None)
    done = await add(
        database, processing_status="completed", completed_at=await database.fetchval("SELECT now()")
    )
    listed = await read(client, "/emails")
    chosen = "&".join(f"ids={number}" for number in (failed[0], failed[2], running, done))
    plans = {}
    for action in ("retry", "dismiss"):
        async with asking(client, f"/emails/-selected?action={action}&{chosen}") as response:
            assert response.status == 303
            plans[action] = response.headers["Location"]
    retry, dismiss = [words_of(await read(client, plans[action])) for action in ("retry", "dismiss")]
    await press(
        client,
        "/retries",
        action="dismiss",
        what="job",
        reason="No.",
        per_second="20",
        ids=f"{failed[0]},{done}",
    )
    await all_steps(res, database)
    dismissed = await database.fetch("SELECT id FROM incoming_emails WHERE dismissed_at IS NOT NULL")

    assert f'form="selected" name="ids" value="{done}"' in listed
    assert "Retry 3 e-mails?" in retry
    assert "4 selected; 1 is left out: they are not finished" in retry
    assert "Dismiss 2 e-mails?" in dismiss
    assert "4 selected; 2 are left out: nothing of them failed" in dismiss
    assert [row["id"] for row in dismissed] == [failed[0]]


async def test_selected_emails_are_retried_whatever_their_filter_would_leave_out(
    client: Server, res: Resources, database: asyncpg.Connection
) -> None:
    chosen, other = await add_failed(database, "1 hour"), await add_failed(database, "1 hour")
    await press(client, f"/emails/{chosen}/dismiss", reason="No.")
    await press(client, "/retries", action="retry", what="job", per_second="20", ids=f"{chosen}")
    await all_steps(res, database)

    states = dict(await database.fetch("SELECT id, processing_status FROM incoming_emails"))
    assert (states[chosen] != "failed", states[other]) == (True, "failed")


async def test_selected_emails_are_put_on_hold_and_an_empty_selection_says_so(client: Server) -> None:
    for query, address in (
        ("ids=3&ids=1&ids=3&action=hold", "/holds/-new?emails=3%2C1"),
        ("action=retry", "/emails?notice=none_selected"),
    ):
        async with asking(client, f"/emails/-selected?{query}") as response:
            assert (response.status, response.headers["Location"]) == (303, address)
    for query in ("ids=x", "ids=1%2C2", "&".join(["ids=1"] + [f"ids={n}" for n in range(300)])):
        await read(client, f"/emails/-selected?{query}", status=400)
    assert "Nothing was selected" in await read(client, "/emails?notice=none_selected")


async def test_a_list_of_numbers_is_a_filter(client: Server, database: asyncpg.Connection) -> None:
    for subject in ("one", "two", "three"):
        await add(database, subject=subject)

    found = await client.get("/api/v1/emails?ids=3,1")
    both = await client.get("/api/v1/emails?ids=3,1&q=three")

    assert [email["id"] for email in found["emails"]] == [3, 1]
    assert (found["total"], [email["id"] for email in both["emails"]]) == (2, [3])
    for wrong in ("", "1,", "x", "-1", ",".join("1" * 201), "9" * 19):
        assert (await client.get(f"/api/v1/emails?ids={wrong}", status=400))["code"] == "bad_parameter"


# ── saved filters


async def test_a_filter_is_saved_used_and_removed(client: Server, database: asyncpg.Connection) -> None:
    page = await read(client, "/emails?status=failed&q=invoice")
    await press(client, "/filters", name=f" Lost {HOSTILE}", status="failed", q="invoice")
    listed, emails = await read(client, "/filters"), await read(client, "/emails")
    (saved,) = (await client.get("/api/v1/filters"))["filters"]
    await press(client, f"/filters/{saved['id']}/remove")
    acts = await database.fetch("SELECT action, actor FROM operator_actions ORDER BY id")

    assert 'action="/filters"' in page
    for shown in (listed, emails):
        assert 'href="/emails?status=failed&amp;q=invoice"' in shown
        assert "<script>alert" not in shown
    assert (saved["filter"]["status"], saved["saved_by"]) == ("failed", "api token")
    assert "No saved filters" in await read(client, "/filters")
    assert [tuple(act) for act in acts] == [("save_filter", "api token"), ("remove_filter", "api token")]


async def test_a_filter_needs_a_name_of_its_own_and_a_field(client: Server) -> None:
    path, failed = "/api/v1/filters", {"status": "failed"}
    made = await post_as_operator(client, path, 201, name="mine", filter=failed)
    for name, chosen, code in (
        ("mine", failed, "filter_exists"),
        (" \n ", failed, "name_missing"),
        ("other", {}, "filter_empty"),
    ):
        assert (await post_as_operator(client, path, 409, name=name, filter=chosen))["code"] == code
    await post_as_operator(client, f"{path}/{made['filter_id']}/remove", 200)
    gone = await post_as_operator(client, f"{path}/{made['filter_id']}/remove", 404)

    assert gone["code"] == "filter_not_found"


# ── acknowledged groups


async def test_a_group_says_who_looks_after_it(client: Server, database: asyncpg.Connection) -> None:
    await add_failed(database, "1 hour", "http_500", "files.example")
    form = await read(client, "/failures/acknowledge?error_code=http_500&host=files.example")
    group = {"error_code": "http_500", "host": "files.example"}
    await press(client, "/failures/acknowledge", **group, note=f"Asked Zendesk. {HOSTILE}")
    failures, overview = await read(client, "/failures"), await read(client, "/")
    (found,) = (await client.get("/api/v1/failures"))["failures"]
    await add_failed(database, "-1 minute", "http_500", "files.example")
    newer = await read(client, "/failures")
    await press(client, "/failures/unacknowledge", **group)
    after = await read(client, "/failures")

    assert 'name="note"' in form
    for page in (failures, overview):
        assert "api token looks after it since" in words_of(page)
        assert "<script>alert" not in page
        assert "others came since" not in page
    assert (found["acknowledgement"]["by"], found["count"]) == ("api token", 1)
    assert "others came since" in newer
    assert "looks after it" not in after


async def test_an_acknowledgement_ends_with_its_emails(client: Server, database: asyncpg.Connection) -> None:
    first = await add_failed(database, "1 hour", "http_500", "files.example")
    group = {"error_code": "http_500", "host": "files.example"}
    path = "/api/v1/failures/acknowledge"
    await post_as_operator(client, path, 200, **group, note="Mine.")
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed' WHERE id = $1", first)
    await add_failed(database, "-1 minute", "http_500", "files.example")

    (found,) = (await client.get("/api/v1/failures"))["failures"]
    blank = await post_as_operator(client, path, 409, **group, note=" ")
    gone = await post_as_operator(
        client, "/api/v1/failures/unacknowledge", 404, error_code="none", host="none"
    )

    assert found["acknowledgement"] is None
    assert (blank["code"], gone["code"]) == ("reason_missing", "not_acknowledged")
