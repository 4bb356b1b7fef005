"""Dismissals: what a person dismissed needs nobody, until it fails again; the counts agree with the rows."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts import failures as alert_of_failures
from service.alerts import reconciliation as alert_of_differences
from service.alerts import syncs as alert_of_syncs
from service.alerts import webhooks as alert_of_quarantine
from service.errors import Rejected
from service.jobs import bulk_retries, retries
from service.operate import bulk_retry, dismiss
from service.operate.retry import retry
from service.postgres.engine import connect, run
from service.postgres.selection import BulkTask, Selection
from service.queries import emails, overview, webhooks
from service.queries.emails import EmailFilter
from service.queries.webhooks import QuarantineFilter
from service.reconcile import record
from service.reconcile.differences import close, extra_documents, open_differences
from service.reconcile.finding import Finding
from service.resources import Resources
from tests.support.retries import all_steps, show
from tests.support.rows import add_failed, add_findings, add_many_failed, add_quarantined, add_reconciliation

LEASE = timedelta(minutes=1)
HOSTILE = '=HYPERLINK("x")\x1b[2J\r\n<script>alert(1)</script>\u202e'
GONE = BulkTask("dismiss", reason="Redacted in Zendesk.")


@pytest.fixture(autouse=True)
async def empty(database: asyncpg.Connection) -> None:
    """Start without e-mails."""


async def dismissed_ids(res: Resources) -> set[int]:
    page = await emails.list_emails(res.engine, EmailFilter(dismissed=True))
    return {email.id for email in page.emails}


async def code_of(refused: Awaitable[None]) -> tuple[int, str]:
    with pytest.raises(Rejected) as error:
        await refused
    return error.value.status, error.value.code


# ── one e-mail


async def test_a_dismissed_email_leaves_alerts_verdict_and_exit_code_and_keeps_its_status(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add_failed(database, "1 hour")
    before = await overview.summarize(res.engine, res.settings)

    await dismiss.dismiss(res, email_id, "ada (tests)", "  The ticket was\nredacted. ")

    after, shown = (
        await overview.summarize(res.engine, res.settings),
        await emails.get_email(res.engine, email_id),
    )
    async with connect(res.engine) as conn:
        alerts = [*await alert_of_failures.find(conn, {})]
    assert (before.state, before.need_you, before.not_safe) == ("attention", 1, 1)
    assert (after.state, after.need_you, after.not_safe, after.dismissed) == ("safe", 0, 0, 1)
    assert after.verdict.startswith("The one e-mail of the last 24 hours is dismissed. None needs attention.")
    assert alerts == []
    assert (shown.processing_status, after.by_status["failed"]) == ("failed", 1)
    assert shown.dismissal
    assert (shown.dismissal.by, shown.dismissal.reason) == ("ada (tests)", "The ticket was redacted.")
    assert [(each.action, each.reason) for each in shown.actions] == [("dismiss", "The ticket was redacted.")]


async def test_a_failed_sync_and_files_that_were_not_captured_are_dismissed_too(
    res: Resources, database: asyncpg.Connection
) -> None:
    insert = (
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, attempt_number, completed_at,"
        " received_at, {}) VALUES ('1', 'completed', 1, now(), now() - interval '1 h', {}) RETURNING id"
    )
    not_synced = await database.fetchval(insert.format("sync_status", "'failed'"))
    not_captured = await database.fetchval(insert.format("error_code", "'not_captured'"))
    before = await overview.summarize(res.engine, res.settings)

    for email_id in (not_synced, not_captured):
        await dismiss.dismiss(res, email_id, "ada", "The target is no more.")

    after = await overview.summarize(res.engine, res.settings)
    async with connect(res.engine) as conn:
        now = await database.fetchval("SELECT now()")
        assert await alert_of_syncs.find(conn, timedelta(hours=1), now) == []
    assert (before.open_sync_failed, before.comparison.not_captured, before.state) == (1, 1, "attention")
    assert (after.open_sync_failed, after.comparison.not_captured, after.state) == (0, 0, "safe")


async def test_a_reason_is_needed_bounded_and_one_clean_line(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add_failed(database, "1 hour")

    for reason, status, code in (
        ("", 409, "reason_missing"),
        (" \n\t", 409, "reason_missing"),
        ("x" * 501, 422, "reason_too_long"),
    ):
        assert await code_of(dismiss.dismiss(res, email_id, "ada", reason)) == (status, code)
    await dismiss.dismiss(res, email_id, "ada", HOSTILE)

    kept = await database.fetchval("SELECT dismiss_reason FROM incoming_emails")
    assert kept.isprintable()
    assert "<script>" in kept, "what shows it has to escape it"


async def test_there_is_nothing_to_dismiss_of_an_unknown_email(res: Resources) -> None:
    assert await code_of(dismiss.dismiss(res, 99, "ada", "Gone.")) == (404, "email_not_found")
    assert await code_of(dismiss.undismiss(res, 99, "ada")) == (404, "email_not_found")


async def test_of_a_retry_and_a_dismissal_at_once_the_retry_stays(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Either the dismissal came first, and the retry ended it; or it was refused, since nothing failed any more."""
    for _ in range(10):
        email_id = await add_failed(database, "1 hour")

        results = await asyncio.gather(
            retry(res, email_id, "ada"),
            dismiss.dismiss(res, email_id, "bob", "Gone."),
            return_exceptions=True,
        )

        shown = await emails.get_email(res.engine, email_id)
        assert (results[0], shown.processing_status, shown.dismissal) == (None, "queued", None)
        assert results[1] is None or getattr(results[1], "code", "") == "not_failed"


async def test_dismissed_malware_is_not_tried_again(res: Resources, database: asyncpg.Connection) -> None:
    email_id = await add_failed(database, "2 days", "malware_found", None)
    await dismiss.dismiss(res, email_id, "ada", "It is malware.")

    async with connect(res.engine) as conn:
        assert await retries.retry_malware(conn, 10) == []
    await dismiss.undismiss(res, email_id, "ada")
    async with connect(res.engine) as conn:
        assert [job.email_id for job in await retries.retry_malware(conn, 10)] == [email_id]


# ── all that match


async def test_all_that_match_are_dismissed_in_steps_and_a_killed_worker_is_followed_by_another(
    res: Resources, database: asyncpg.Connection
) -> None:
    wanted = await add_many_failed(database, 25)
    others = await add_many_failed(database, 5, error_code="too_large")
    planned = await bulk_retry.plan(res, Selection(error_code="http_500"), GONE)

    number = await bulk_retry.start(res, Selection(error_code="http_500"), 10, "ada (tests)", GONE)
    assert await bulk_retry.step(res)
    await database.execute("UPDATE bulk_retries SET next_at = now()")
    async with connect(res.engine) as conn:
        assert await bulk_retries.claim_step(conn, LEASE), "this worker dies, and leaves its lease"
    assert not await bulk_retry.step(res)
    await database.execute("UPDATE bulk_retries SET next_at = now()")
    steps = await all_steps(res, database)

    done = await show(res, number)
    assert (planned.number, steps) == (25, 2)
    assert (done.action, done.status, done.retried, done.still_running) == ("dismiss", "done", 25, 0)
    assert done.settled_at
    assert await dismissed_ids(res) == set(wanted)
    assert (await overview.stats(res.engine)).open_failed == len(others)
    noted = await database.fetch("SELECT action, reason FROM operator_actions WHERE email_id IS NOT NULL")
    assert {(row["action"], row["reason"]) for row in noted} == {("dismiss", "Redacted in Zendesk.")}
    assert len(noted) == 25


async def test_a_bulk_retry_leaves_dismissed_emails_out_unless_the_filter_asks_for_them(
    res: Resources, database: asyncpg.Connection
) -> None:
    first, second, third = await add_many_failed(database, 3)
    for email_id in (first, second):
        await dismiss.dismiss(res, email_id, "ada", "Gone.")

    await bulk_retry.start(res, Selection(), 10, "ada")
    await all_steps(res, database)
    after = await dismissed_ids(res)
    await bulk_retry.start(res, Selection(dismissed=True), 10, "ada")
    await all_steps(res, database)

    queued = await database.fetchval(
        "SELECT count(*) FROM incoming_emails WHERE processing_status = 'queued'"
    )
    assert (after, await dismissed_ids(res), queued) == ({first, second}, set(), 3)
    assert third not in after


async def test_all_dismissals_that_match_are_ended(res: Resources, database: asyncpg.Connection) -> None:
    ids = await add_many_failed(database, 12)
    await bulk_retry.start(res, Selection(), 10, "ada", GONE)
    await all_steps(res, database)

    planned = await bulk_retry.plan(res, Selection(), BulkTask("undismiss"))
    number = await bulk_retry.start(res, Selection(), 10, "ada", BulkTask("undismiss"))
    await all_steps(res, database)

    assert (planned.number, (await show(res, number)).retried) == (12, 12)
    assert await dismissed_ids(res) == set()
    assert (await overview.stats(res.engine)).open_failed == len(ids)


async def test_what_fails_after_the_plan_is_not_dismissed(
    res: Resources, database: asyncpg.Connection
) -> None:
    before = await add_many_failed(database, 2, sync_status="failed")
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - interval '1 h'")
    await bulk_retry.start(res, Selection(), 10, "ada", GONE)
    await database.execute(
        "UPDATE incoming_emails SET sync_due_at = now() + interval '1 s' WHERE id = $1", before[0]
    )

    await all_steps(res, database)

    assert await dismissed_ids(res) == {before[1]}


@pytest.mark.parametrize("wanted", [Selection(status="completed"), Selection(status="completed", ticket="1")])
async def test_only_what_failed_can_be_dismissed_in_bulk(res: Resources, wanted: Selection) -> None:
    with pytest.raises(Rejected, match="Only what failed can be dismissed"):
        await bulk_retry.plan(res, wanted, GONE)
    with pytest.raises(Rejected, match="Give a reason"):
        await bulk_retry.start(res, Selection(), 10, "ada", BulkTask("dismiss"))


async def test_the_version_before_steps_through_retries_alone(
    res: Resources, database: asyncpg.Connection
) -> None:
    """It would retry the e-mails of a dismissal; but it refuses a filter with a field that it does not know."""
    for wanted, task in (
        (Selection(), GONE),
        (Selection(), BulkTask("undismiss")),
        (Selection(), BulkTask()),
    ):
        await bulk_retry.start(res, wanted, 10, "ada", task)

    rows = await database.fetch(
        "SELECT filter::jsonb ? 'dismissed' AS is_fenced FROM bulk_retries ORDER BY id"
    )
    assert [row["is_fenced"] for row in rows] == [True, True, False]


# ── the quarantine


async def test_a_dismissed_webhook_leaves_quarantine_and_alert_and_can_be_taken_back(
    res: Resources, database: asyncpg.Connection
) -> None:
    webhook_id = await add_quarantined(database, "not_json")

    await dismiss.dismiss_webhook(res, webhook_id, "ada", "A test of ours.")

    stats = await overview.summarize(res.engine, res.settings)
    waiting = await webhooks.list_quarantined(res.engine, QuarantineFilter())
    (kept,) = (await webhooks.list_quarantined(res.engine, QuarantineFilter(dismissed=True))).quarantine
    async with connect(res.engine) as conn:
        assert await alert_of_quarantine.find_quarantined(conn, {}) == []
    assert (stats.quarantined, stats.dismissed_webhooks, stats.need_you, stats.unread) == (0, 1, 0, 0)
    assert (waiting.quarantine, await webhooks.quarantined_ids(res.engine)) == ([], [])
    assert kept.dismissal
    assert kept.dismissal.reason == "A test of ours."
    again = dismiss.dismiss_webhook(res, webhook_id, "ada", "Twice.")
    assert await code_of(again) == (409, "already_dismissed")
    await dismiss.undismiss_webhook(res, webhook_id, "ada")
    assert (await overview.stats(res.engine)).quarantined == 1
    assert await code_of(dismiss.undismiss_webhook(res, webhook_id, "ada")) == (409, "not_dismissed")
    assert await code_of(dismiss.dismiss_webhook(res, 99, "ada", "Gone.")) == (404, "webhook_not_found")


async def test_a_replayed_webhook_cannot_be_dismissed(res: Resources, database: asyncpg.Connection) -> None:
    webhook_id = await add_quarantined(database, "not_json")
    await database.execute("UPDATE quarantined_webhooks SET replayed_at = now()")

    refused = dismiss.dismiss_webhook(res, webhook_id, "ada", "Gone.")
    assert await code_of(refused) == (409, "already_replayed")


# ── findings


async def test_a_dismissed_difference_stays_dismissed_while_runs_find_it_and_comes_back_after_it_was_gone(
    res: Resources, database: asyncpg.Connection
) -> None:
    async def look(*found: str) -> int:
        """Make a run as reconcile does: it saves what it found, then closes what it compared."""
        findings = [Finding("extra", key) for key in found]

        async def made(conn: AsyncConnection) -> None:
            begun = await record.begin(conn, actor="ada", fix="nothing", since=None, targets=None)
            assert begun
            await record.save(conn, begun, findings)
            await close(conn, begun.id, extra_documents(), findings)
            await record.end(conn, begun.id, "done")

        await run(res.engine, 30, made)
        return (await run(res.engine, 30, open_differences)).total

    first = await look("a", "b")
    finding_id = await database.fetchval("SELECT id FROM reconciliation_findings WHERE key = 'a'")
    await dismiss.dismiss_finding(res, finding_id, "ada", "A document of ours.")
    dismissed = (await run(res.engine, 30, open_differences)).total
    again, gone, new = await look("a", "b"), await look(), await look("a")

    assert (first, dismissed, again, gone, new) == (2, 1, 1, 0, 1)


async def test_a_dismissed_difference_causes_no_alert_and_a_remark_cannot_be_dismissed(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_findings(database, await add_reconciliation(database), "extra", "foreign")
    difference, remark = [
        row["id"] for row in await database.fetch("SELECT id FROM reconciliation_findings ORDER BY id")
    ]

    await dismiss.dismiss_finding(res, difference, "ada", "Ours.")

    async with connect(res.engine) as conn:
        assert [each.key for each in await alert_of_differences.find(conn, 0)] == []
    assert await code_of(dismiss.dismiss_finding(res, remark, "ada", "Ours.")) == (409, "not_open")
    assert await code_of(dismiss.dismiss_finding(res, 99, "ada", "Ours.")) == (404, "finding_not_found")
    await dismiss.undismiss_finding(res, difference, "ada")
    async with connect(res.engine) as conn:
        assert [each.count for each in await alert_of_differences.find(conn, 0)] == [1]
