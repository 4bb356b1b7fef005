"""Dismissals by pages without scripts, by the API and by commands."""

import json
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from service.config.settings import Settings
from service.resources import Resources
from tests.conftest import Server
from tests.support.access import READ_TOKEN
from tests.support.api import post_as_operator
from tests.support.commands import terminal, typed
from tests.support.pages import HOSTILE, asking, press, read, words_of
from tests.support.retries import all_steps
from tests.support.rows import add_failed, add_findings, add_many_failed, add_quarantined, add_reconciliation

WHY = "Redacted in Zendesk."
EMAILS, QUARANTINE, FINDINGS = "/api/v1/emails", "/api/v1/quarantine", "/api/v1/findings"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"api_read_token": SecretStr(READ_TOKEN)})


@pytest.fixture
async def email_id(database: asyncpg.Connection) -> int:
    return await add_failed(database, "1 hour")


@pytest.fixture
async def webhook_id(database: asyncpg.Connection) -> int:
    return await add_quarantined(database, "not_json")


@pytest.fixture
async def finding_id(database: asyncpg.Connection) -> int:
    await add_findings(database, await add_reconciliation(database, counts={"extra": 1}), "extra")
    number: int = await database.fetchval("SELECT id FROM reconciliation_findings")
    return number


# ── pages


async def test_an_email_is_dismissed_and_undismissed_on_its_page(client: Server, email_id: int) -> None:
    page = f"/emails/{email_id}"
    before = await read(client, page)
    asked = await read(client, f"{page}/dismiss")
    moved = await press(client, f"{page}/dismiss", reason=WHY)
    dismissed, overview = await read(client, moved), await read(client, "/")
    listed, failures = await read(client, "/emails?dismissed=true"), await read(client, "/failures")
    await press(client, f"{page}/undismiss")
    after = await read(client, page)

    assert f'href="{page}/dismiss"' in before
    assert 'name="reason"' in asked
    assert f"by api token: {WHY}" in words_of(dismissed)
    assert "Failed, and dismissed." in words_of(dismissed)
    assert f'action="{page}/undismiss"' in dismissed
    assert "None needs attention." in words_of(overview)
    assert (f'href="{page}?dismissed=true"' in listed, "No failures" in failures) == (True, True)
    assert f'href="{page}/dismiss"' in after
    assert "Not dismissed any more" in words_of(after)


async def test_a_group_is_dismissed_by_its_plan(
    client: Server, res: Resources, database: asyncpg.Connection
) -> None:
    await add_many_failed(database, 3)
    group = {"status": "failed", "error_code": "http_500"}
    failures = await read(client, "/failures")
    plan = await read(client, "/retries/plan?action=dismiss&status=failed&error_code=http_500")
    await press(client, "/retries", action="dismiss", what="job", reason=WHY, per_second="20", **group)
    await all_steps(res, database)
    retries, dismissed = await read(client, "/retries"), await read(client, "/emails?dismissed=true")
    back = await read(client, "/retries/plan?action=undismiss&dismissed=true")

    assert "/retries/plan?action=dismiss&amp;status=failed" in failures
    assert "Dismiss 3 e-mails?" in words_of(plan)
    assert 'name="reason"' in plan
    assert WHY in words_of(retries)
    assert "/retries/plan?action=undismiss&amp;dismissed=true" in dismissed
    assert "Undismiss 3 e-mails?" in words_of(back)


async def test_a_webhook_is_dismissed_and_undismissed_on_its_page(client: Server, webhook_id: int) -> None:
    page = f"/quarantine/{webhook_id}"
    await read(client, f"{page}/dismiss")
    dismissed = await read(client, await press(client, f"{page}/dismiss", reason=WHY))
    lists = [words_of(await read(client, f"/quarantine{query}")) for query in ("", "?dismissed=true")]
    await press(client, f"{page}/undismiss")

    assert f"by api token: {WHY}" in words_of(dismissed)
    assert [f"Request {webhook_id}" in each for each in lists] == [False, True]
    assert f"Request {webhook_id}" in words_of(await read(client, "/quarantine"))


async def test_a_finding_is_dismissed_and_undismissed_on_the_page_of_its_run(
    client: Server, finding_id: int
) -> None:
    run, finding = "/reconciliations/1", f"/reconciliations/1/findings/{finding_id}"
    before = await read(client, run)
    await read(client, f"{finding}/dismiss")
    dismissed = await read(client, await press(client, f"{finding}/dismiss", reason=WHY))
    await press(client, f"{finding}/undismiss")

    assert "1 difference not repaired." in words_of(before)
    assert "not repaired" not in words_of(dismissed)
    assert f"by api token: {WHY}" in words_of(dismissed)
    assert "1 difference not repaired." in words_of(await read(client, run))


async def test_a_hostile_reason_is_only_text_on_every_page(
    client: Server, email_id: int, webhook_id: int, finding_id: int
) -> None:
    run = "/reconciliations/1"
    subjects = (f"/emails/{email_id}", f"/quarantine/{webhook_id}", f"{run}/findings/{finding_id}")
    for subject in subjects:
        await press(client, f"{subject}/dismiss", reason=HOSTILE)

    for path in (*subjects[:2], run, "/activity", "/quarantine?dismissed=true"):
        page = await read(client, path)
        assert "<script>alert" not in page, path
        assert "&lt;script&gt;alert(1)" in page, path
        assert not {"\u202e", "\x07"} & {*page}, path


async def test_without_a_reason_nothing_is_dismissed(client: Server, email_id: int) -> None:
    for reason, status in (("", 409), ("x" * 501, 400)):
        async with asking(client, f"/emails/{email_id}/dismiss", form={"reason": reason}) as response:
            assert response.status == status
    assert (await client.get("/api/v1/stats"))["open_failed"] == 1


async def test_readers_see_a_dismissal_and_cannot_dismiss(
    client: Server, email_id: int, webhook_id: int, finding_id: int
) -> None:
    for subject in (
        f"/emails/{email_id}",
        f"/quarantine/{webhook_id}",
        f"/reconciliations/1/findings/{finding_id}",
        f"{EMAILS}/{email_id}",
        f"{QUARANTINE}/{webhook_id}",
        f"{FINDINGS}/{finding_id}",
    ):
        for action in ("dismiss", "undismiss"):
            path = f"{subject}/{action}"
            async with asking(client, path, form={"reason": WHY}, token=READ_TOKEN) as response:
                assert response.status == 403, path
    page = await read(client, f"/emails/{email_id}", token=READ_TOKEN)
    assert "Dismiss" not in words_of(page)


# ── the API


@pytest.mark.parametrize("subject", ["emails", "quarantine", "findings"])
async def test_the_api_dismisses_once_and_says_why_not_again(
    subject: str, client: Server, email_id: int, webhook_id: int, finding_id: int
) -> None:
    name, number = {
        "emails": ("email_id", email_id),
        "quarantine": ("quarantine_id", webhook_id),
        "findings": ("finding_id", finding_id),
    }[subject]
    path = f"/api/v1/{subject}/{number}"

    dismissed = await post_as_operator(client, f"{path}/dismiss", 200, reason=WHY)
    again = await post_as_operator(client, f"{path}/dismiss", 409, reason=WHY)
    shown = await client.get("/api/v1/reconciliations/1" if subject == "findings" else path)
    undismissed = await post_as_operator(client, f"{path}/undismiss", 200)
    twice = await post_as_operator(client, f"{path}/undismiss", 409)
    empty = await post_as_operator(client, f"{path}/dismiss", 409, reason="\n")
    none = await post_as_operator(client, f"{path}/dismiss", 400)
    actions = (await client.get("/api/v1/actions"))["actions"]

    assert dismissed == {"dismissed": True, name: number}
    assert undismissed == {"dismissed": False, name: number}
    codes = [each["code"] for each in (again, twice, empty, none)]
    assert codes == ["already_dismissed", "not_dismissed", "reason_missing", "bad_body"]
    dismissal = (shown["findings"][0] if subject == "findings" else shown)["dismissal"]
    assert (dismissal["by"], dismissal["reason"]) == ("ada (api)", WHY)
    noted = [(each["action"], each["reason"], each[name]) for each in actions]
    assert noted == [("undismiss", None, number), ("dismiss", WHY, number)]


async def test_the_api_dismisses_all_that_match(
    client: Server, res: Resources, database: asyncpg.Connection
) -> None:
    await add_many_failed(database, 4)
    wanted: dict[str, Any] = {"filter": {"error_code": "http_500"}, "action": "dismiss"}

    planned = await post_as_operator(client, "/api/v1/retries", 200, dry_run=True, **wanted)
    refused = await post_as_operator(client, "/api/v1/retries", 409, **wanted)
    begun = await post_as_operator(client, "/api/v1/retries", 202, reason=WHY, **wanted)
    await all_steps(res, database)
    shown = await client.get(f"/api/v1/retries/{begun['bulk_retry_id']}")
    listed = (await client.get(f"{EMAILS}?dismissed=true"))["emails"]

    assert (planned["planned"], refused["code"]) == (4, "reason_missing")
    assert (shown["action"], shown["reason"], shown["retried"]) == ("dismiss", WHY, 4)
    assert [email["dismissal"]["reason"] for email in listed] == [WHY] * 4
    assert (await client.get("/api/v1/failures"))["failures"] == []


# ── commands


async def test_after_everything_is_dismissed_status_and_reconcile_exit_with_0(
    settings: Settings, email_id: int, webhook_id: int, finding_id: int, database: asyncpg.Connection
) -> None:
    before = await typed(settings, "status")
    reason = ("--reason", WHY, "--yes")
    emails = await typed(settings, "emails", "dismiss", str(email_id), "99", *reason, LOGNAME="ada")
    quarantine = await typed(settings, "quarantine", "dismiss", "--all", "--code", "not_json", *reason)
    findings = await typed(settings, "reconcile", "dismiss", str(finding_id), *reason)
    after = await typed(settings, "status")
    shown = await typed(settings, "emails", "show", str(email_id))
    listed = await typed(settings, "quarantine", "list", "--dismissed", "--json")
    run = await typed(settings, "reconcile", "show", "1")
    activity = await typed(settings, "activity")
    for noun, number in (("emails", email_id), ("quarantine", webhook_id), ("reconcile", finding_id)):
        done = await typed(settings, noun, "undismiss", str(number), "--yes")
        assert done.stdout == f"{number} undismissed\n"
    again = await typed(settings, "status")

    assert (before.returncode, after.returncode, again.returncode) == (3, 0, 3)
    assert (emails.returncode, emails.stdout) == (1, f"{email_id} dismissed\n")
    assert emails.stderr == "There is no e-mail 99.\n"
    assert (quarantine.stdout, findings.stdout) == (f"{webhook_id} dismissed\n", f"{finding_id} dismissed\n")
    assert "dismissed\t1\n" in after.stdout
    assert f"(command line): {WHY}" in shown.stdout
    assert json.loads(listed.stdout)["quarantine"][0]["dismissal"]["reason"] == WHY
    assert run.stdout.startswith("No other differences found: 1 dismissed.\n")
    assert activity.stdout.count(WHY) == 3


async def test_a_group_is_dismissed_by_command(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    await add_many_failed(database, 3)

    plan = await typed(settings, "failures", "dismiss", "http_500", "--reason", WHY, "--dry-run", "--json")
    begun = await typed(settings, "failures", "dismiss", "http_500", "--reason", WHY, "--yes")
    await all_steps(res, database)
    waited = await typed(settings, "retries", "wait", "1")
    listed = await typed(settings, "emails", "list", "--dismissed")
    rest = await typed(settings, "emails", "list", "--not-dismissed")
    back = await typed(settings, "emails", "undismiss", "--all", "--dry-run", "--json")

    assert json.loads(plan.stdout)["matching"] == 3
    assert begun.stdout.startswith("Bulk dismissal 1 is running with 0 of 3 dismissed\n")
    assert (waited.returncode, waited.stdout) == (0, "Bulk dismissal 1 is done with 3 of 3 dismissed\n")
    assert [line.split("\t")[4] for line in listed.stdout.splitlines()] == ["failed (dismissed)"] * 3
    assert rest.stdout == ""
    assert json.loads(back.stdout)["matching"] == 3


@pytest.mark.parametrize("noun", ["emails", "quarantine", "reconcile"])
async def test_a_dismissal_asks_and_without_a_terminal_it_needs_yes(
    noun: str, settings: Settings, database: asyncpg.Connection
) -> None:
    words = (noun, "dismiss", "1", "--reason", WHY)

    piped = await typed(settings, *words)
    code, screen = await terminal(settings, *words, keys=b"n\n")

    assert (piped.returncode, code) == (2, 1)
    assert "No terminal: add --yes." in piped.stderr
    assert "Dismiss 1 " in screen
    assert await database.fetchval("SELECT count(*) FROM operator_actions") == 0
