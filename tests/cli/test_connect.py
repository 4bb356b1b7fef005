"""`holdfast connect`: the plan, the question, the second run, the removal."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from typing import Any

import asyncpg
import pytest

from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources
from tests.conftest import ROOT, environment, eventually, working
from tests.support import forked
from tests.support.commands import command, terminal, typed
from tests.support.connecting import trigger_of, webhook_of, without_secret, writes


async def test_one_command_leads_from_an_empty_account_to_the_first_email(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """The command waits for the e-mail, which is sent after the connection is there."""
    async with without_secret(settings, zendesk) as client, working(settings):
        settings = settings.model_copy(update={"zendesk_webhook_secrets": ()})

        async def send() -> None:
            async def connected() -> bool:
                return bool(await database.fetchval("SELECT count(*) FROM connections"))

            await eventually(connected)
            zendesk.add_email(1)

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            running = group.create_task(command(settings, "connect", "--url", client.url, "--yes"))
        done = running.result()

    assert done.returncode == 0, done.stderr
    assert "E-mail 1 of ticket 1 is completed." in done.stdout
    assert "nothing to copy" in done.stdout
    assert webhook_of(zendesk).secret not in done.stdout + done.stderr
    assert done.stderr == ""


async def test_a_plan_is_shown_and_changes_nothing(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    done = await typed(settings, "connect", "--url", "https://holdfast.acme.example", "--plan")

    assert done.returncode == 0
    assert "1. Make the webhook “Holdfast” to https://holdfast.acme.example/webhooks/zendesk." in done.stdout
    assert "Update via is Closed ticket" in done.stdout
    assert writes(zendesk) == {}


@pytest.mark.parametrize(
    ("public_url", "words", "expected"),
    [
        ("https://h.example/mail", [], "https://h.example/mail/webhooks/zendesk"),
        ("https://h.example/mail", ["--url", "https://h.example"], "https://h.example/mail/webhooks/zendesk"),
        (
            "https://h.example/mail",
            ["--url", "https://other.example"],
            "https://other.example/webhooks/zendesk",
        ),
        (None, ["--url", "https://h.example/x/"], "https://h.example/x/webhooks/zendesk"),
    ],
)
async def test_the_address_has_the_path_prefix_of_the_service(
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    public_url: str | None,
    words: list[str],
    expected: str,
) -> None:
    changed = {"public_url": public_url} if public_url else {}
    done = await typed(settings.model_copy(update=changed), "connect", "--plan", *words)

    assert f"to {expected}." in done.stdout


@pytest.mark.parametrize("url", ["https://ü..example", "https://h\\@other.example", "https://[::1", "h"])
async def test_an_address_that_is_none_is_told_in_one_line(
    settings: Settings, res: Resources, url: str
) -> None:
    done = await typed(settings, "connect", "--plan", "--url", url)

    assert done.returncode == 2
    assert "--url is not an address such as" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_refusal_by_the_rate_limit_says_what_to_do(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    zendesk.state.rule_faults["triggers"] = Fault(status=429, headers={"Retry-After": "30"})
    done = await typed(settings, "connect", "--plan", "--url", "https://holdfast.acme.example")

    assert done.returncode == 1
    assert "Zendesk's API takes no more requests for now" in done.stderr
    assert "in a minute" in done.stderr


async def test_a_second_run_changes_nothing_and_a_removal_leaves_nothing(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        words = ("connect", "--url", client.url, "--yes", "--no-wait")
        first = await typed(settings, *words)
        before = writes(zendesk)
        # The address is known from the first run.
        second = await typed(settings, "connect", "--yes")
        after = writes(zendesk)
        planned = await typed(settings, "connect", "--remove", "--plan")
        removed = await typed(settings, "connect", "--remove", "--yes")
        again = await typed(settings, "connect", "--url", client.url, "--remove", "--yes")

    assert (first.returncode, second.returncode, removed.returncode, again.returncode) == (0, 0, 0, 0)
    assert "Connected." in first.stdout
    assert "Nothing had to be changed." in second.stdout
    assert "Waiting" not in second.stdout
    assert before == after
    assert "Delete the webhook" in planned.stdout
    assert zendesk.state.rules.webhooks == {}
    assert "no webhook to this address" in again.stdout


async def test_the_recorded_address_stays_while_public_url_is_another(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        await typed(settings, "connect", "--url", client.url, "--yes", "--no-wait")
        changed = settings.model_copy(update={"public_url": "https://other.example/mail"})
        before = writes(zendesk)
        kept = await typed(changed, "connect", "--yes", "--no-wait")
        asked = await typed(changed, "connect", "--url", "https://other.example", "--plan")

    assert (kept.returncode, writes(zendesk)) == (0, before)
    assert f"as they should be: {client.webhook}" in kept.stdout
    assert "--url https://other.example/mail connects it" in kept.stdout
    assert "https://other.example/mail/webhooks/zendesk" in asked.stdout


async def test_a_change_at_zendesk_is_shown_and_put_back_on_request(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        await typed(settings, "connect", "--url", client.url, "--yes", "--no-wait")
        trigger_of(zendesk).fields["active"] = False
        shown = await typed(settings, "connect", "--yes", "--no-wait")
        is_active = trigger_of(zendesk).active
        repaired = await typed(settings, "connect", "--repair", "--yes", "--no-wait")

    assert (shown.returncode, is_active) == (1, False)
    assert "The trigger is not active." in shown.stderr
    assert "holdfast connect --repair" in shown.stderr
    assert (repaired.returncode, trigger_of(zendesk).active) == (0, True)


async def test_the_question_is_asked_before_anything_changes(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        words = ("connect", "--url", client.url, "--no-wait")
        refused, screen = await terminal(settings, *words, columns=200, keys=b"n\n")
        before = writes(zendesk)
        agreed, _ = await terminal(settings, *words, columns=200, keys=b"y\n")

    assert (refused, before) == (1, {})
    assert "Go on? [y/N]" in screen
    assert agreed == 0
    assert trigger_of(zendesk).active


class Once(dict[str, Fault]):
    """Faults that happen once each."""

    def get(self, name: str, default: Any = None) -> Any:
        return self.pop(name, default)


async def test_a_removal_that_was_not_shown_is_not_carried_out(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        await typed(settings, "connect", "--url", client.url, "--yes", "--no-wait")
        zendesk.state.rule_faults = Once(webhooks=Fault(status=200, body=b'{"webhooks": []}'))
        done = await typed(settings, "connect", "--remove", "--yes")

    assert (done.returncode, "Zendesk has changed" in done.stderr) == (1, True)
    assert trigger_of(zendesk).active


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--url", "https://h.example"], 2, "No terminal: add --yes, or --plan."),
        (["--plan"], 2, "add --url, or set PUBLIC_URL"),
        (["--plan", "--url", "holdfast"], 2, "--url is not an address"),
        (["--plan", "--url", "https://user:hunter2@h.example"], 2, "--url is not an address"),
        (["--plan", "--url", "https://h.example?x=1"], 2, "--url is not an address"),
    ],
)
async def test_wrong_words_are_one_line(
    settings: Settings, zendesk: Zendesk, res: Resources, words: list[str], code: int, said: str
) -> None:
    done = await typed(settings, "connect", *words)

    assert done.returncode == code
    assert said in done.stderr
    assert "hunter2" not in done.stderr
    assert zendesk.state.api_calls == 0


async def test_plain_http_is_refused_where_private_networks_are(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    settings = settings.model_copy(update={"download_private_networks": False})
    done = await typed(settings, "connect", "--plan", "--url", "http://h.example")

    assert (done.returncode, "begin with https://" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("name", "fault", "said"),
    [
        ("webhooks", Fault(status=403), "administrator"),
        ("make webhook", Fault(status=422, body=b'{"error": "RecordInvalid", "description": "Limit reached"}'), "Limit reached"),
        ("webhooks", Fault(status=200, body=b"<html>"), "did not answer with JSON"),
    ],
)  # fmt: skip
async def test_a_refusal_is_one_line_with_advice(
    settings: Settings, zendesk: Zendesk, res: Resources, name: str, fault: Fault, said: str
) -> None:
    zendesk.state.rule_faults[name] = fault
    done = await typed(settings, "connect", "--url", "https://h.example", "--yes", "--no-wait")

    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


async def test_ctrl_c_ends_the_wait_and_keeps_the_connection(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        words = (sys.executable, "-m", "service", "connect", "--url", client.url, "--yes")
        process = await forked.create_subprocess_exec(
            *words, env=environment(settings), cwd=ROOT, stdout=PIPE, stderr=PIPE
        )
        async with asyncio.timeout(60):
            while b"Ctrl-C ends the wait" not in await process.stdout.readline():
                pass
            process.send_signal(signal.SIGINT)
            said, errors = await process.communicate()

    assert (process.returncode, errors) == (0, b"")
    assert b"the connection stays" in said
    assert trigger_of(zendesk).active
