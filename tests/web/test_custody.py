"""Holds and retention rules by the API, by pages without scripts, and by commands."""

import json
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from service.config.settings import Settings
from tests.conftest import Server
from tests.custody.test_holds import ADA
from tests.support.access import READ_TOKEN
from tests.support.api import post_as_operator
from tests.support.commands import terminal, typed
from tests.support.pages import HOSTILE, asking, fields_of, press, read, words_of
from tests.support.rows import add_received

HOLDS, RETENTION = "/api/v1/holds", "/api/v1/retention"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"api_read_token": SecretStr(READ_TOKEN)})


@pytest.fixture
async def email_id(database: asyncpg.Connection) -> int:
    """Insert an e-mail whose job ended 100 days ago."""
    email_id = await add_received(database, "100 days", from_email=ADA)
    await database.execute("UPDATE incoming_emails SET completed_at = received_at")
    return email_id


async def test_api_sets_shows_and_releases_a_hold(client: Server, email_id: int) -> None:
    about: dict[str, Any] = {
        "name": "lawsuit",
        "reason": "Miller",
        "filter": {"sender": ADA},
        "emails": [email_id],
    }
    made = await post_as_operator(client, HOLDS, 201, **about)
    again = await post_as_operator(client, HOLDS, 409, **about)
    email = await client.email(email_id)
    listed = await client.get(HOLDS)
    released = await post_as_operator(client, f"{HOLDS}/lawsuit/release", 200, reason="Settled")

    assert (made["matching"], made["emails"], made["set_by"]) == (1, [email_id], "ada (api)")
    assert made["filter"] == {"ticket": None, "sender": ADA, "received_after": None, "received_before": None}
    assert email["held_by"] == ["lawsuit"]
    assert [hold["name"] for hold in listed["holds"]] == ["lawsuit"]
    assert released["release_reason"] == "Settled"
    assert (await client.email(email_id))["held_by"] == []
    assert again["code"] == "hold_exists"


async def test_api_says_what_is_wrong_with_a_filter(client: Server) -> None:
    wanted = {"name": "one", "reason": "x", "filter": {"ticket": "#4711"}}

    refused = await post_as_operator(client, HOLDS, 400, **wanted)

    assert refused["detail"] == "filter.ticket: is no ticket: write its number alone, as in 35434"


@pytest.mark.parametrize(
    ("about", "status"),
    [
        ({"filter": {"status": "failed"}}, 400),  # it changes by itself
        ({"filter": {"q": "invoice"}}, 400),
        ({"filter": {}, "name": "-new"}, 400),
        ({"filter": {"ticket": "#4711"}}, 400),
        ({"filter": {"sender": ""}}, 400),
        ({"filter": {}, "emails": [10**30]}, 400),
        ({}, 409),
        ({"emails": [4711]}, 404),
    ],
)
async def test_api_refuses_a_wrong_hold(client: Server, about: dict[str, Any], status: int) -> None:
    await post_as_operator(client, HOLDS, status, **{"name": "one", "reason": "x", **about})

    assert (await client.get(HOLDS))["holds"] == []


async def test_a_hostile_name_of_a_hold_is_not_found(client: Server) -> None:
    for name in ("%00", "%ED%A0%80", "..%2f", "x" * 300, "A"):
        await client.get(f"{HOLDS}/{name}", status=404)


async def test_api_simulates_rules_before_it_saves_them(client: Server, email_id: int) -> None:
    before = await client.get(RETENTION)
    rules = [{"name": "old", "keep_days": 90, "filter": {"sender": ADA}}, {"name": "all", "keep_days": None}]
    change = {"rules": rules, "version": before["version"]}
    tried = await post_as_operator(client, RETENTION, 200, **change, dry_run=True)
    unchanged = await client.get(RETENTION)
    saved: Any = await post_as_operator(client, RETENTION, 200, **change)
    late = await post_as_operator(client, RETENTION, 409, **change)
    after = await client.get(RETENTION)

    assert (before["rules"], before["floor_days"]) == ([], 30)
    assert (unchanged, tried["saved"], saved["saved"]) == (before, False, True)
    assert tried["simulation"] == saved["simulation"] == await client.get(f"{RETENTION}/simulation")
    assert [rule["now"]["emails"] for rule in saved["simulation"]["rules"]] == [1, 0]
    assert saved["simulation"]["rules"][0]["examples"] == [email_id]
    assert [(rule["name"], rule["keep_days"]) for rule in after["rules"]] == [("old", 90), ("all", None)]
    assert late["code"] == "rules_changed"


async def test_pages_set_and_release_a_hold(client: Server, email_id: int) -> None:
    empty, form = await read(client, "/holds"), await read(client, f"/holds/-new?emails={email_id}")
    page = await press(client, "/holds", name="lawsuit", reason=HOSTILE, emails=f"{email_id},", sender=" ")
    shown, listed = await read(client, page), await read(client, "/holds")
    email = await read(client, f"/emails/{email_id}")
    released = await read(client, await press(client, "/holds/lawsuit/release", reason="Settled"))
    activity = await read(client, "/activity")

    assert "No holds" in empty
    assert f'value="{email_id}"' in form
    assert "Held by lawsuit : it may not be deleted." in words_of(email)
    assert "in force" in words_of(listed)
    assert "Settled" in words_of(released)
    assert "release hold Settled hold lawsuit" in words_of(activity)
    for each in (shown, listed, released, activity):
        assert "<script>alert" not in each
        assert "<img src=x" not in each


@pytest.mark.parametrize("chosen", [{"sender": ADA}, {"emails": "{email_id}"}, {"everything": "true"}])
async def test_each_way_to_cover_e_mails_is_enough_for_a_hold(
    client: Server, email_id: int, chosen: dict[str, str]
) -> None:
    """A browser sends the other fields of the form too: empty."""
    form = fields_of(await read(client, "/holds/-new"), "/holds")
    given = {name: value.format(email_id=email_id) for name, value in chosen.items()}
    await press(client, "/holds", **{**form, "name": "lawsuit", "reason": "Miller", **given})

    assert (await client.email(email_id))["held_by"] == ["lawsuit"]


async def test_a_hold_without_a_reason_is_refused_for_that(client: Server, email_id: int) -> None:
    form = fields_of(await read(client, "/holds/-new"), "/holds")

    page = await read(client, "/holds", form={**form, "name": "lawsuit", "sender": ADA}, status=409)

    assert "reason" in words_of(page)


async def test_pages_plan_a_change_of_rules_and_save_it(client: Server, email_id: int) -> None:
    """A form that is out of date is refused."""
    await read(client, "/retention/rule")
    wanted = {"action": "add", "name": "old", "sender": ADA, "keep_days": "90"}
    query = "&".join(f"{name}={value}" for name, value in wanted.items())
    plan = await read(client, f"/retention/plan?{query}")
    version = plan.partition('name="version" value="')[2].partition('"')[0]
    saved = await read(client, await press(client, "/retention", **wanted, version=version))
    simulated = await read(client, "/retention?simulate=1")
    change = await read(client, "/retention/rule?name=old")

    assert "1 e-mail would be deleted now, 1 within a year." in words_of(plan)
    assert f'href="/emails/{email_id}"' in simulated
    assert f"old sender {ADA} 90 days" in words_of(saved)
    assert 'value="90"' in change
    async with asking(
        client, "/retention", form={"action": "remove", "name": "old", "version": version}
    ) as late:
        assert late.status == 409
    await read(client, "/retention/plan?action=add&name=x&everything=true&keep_days=3", status=409)
    await read(client, "/retention/plan?action=add&name=x&keep_days=90", status=400)
    await read(client, "/retention/plan?action=move&name=x&place=2", status=404)


async def test_readers_see_all_and_change_nothing(client: Server, email_id: int) -> None:
    for path in ("/holds", "/holds/-new", "/retention?simulate=1", "/retention/rule", f"/emails/{email_id}"):
        assert '<form method="post" action="/holds' not in await read(client, path, token=READ_TOKEN)
    for path in ("/holds", "/retention"):
        form = {"name": "one", "everything": "true", "reason": "x", "action": "remove"}
        async with asking(client, path, form=form, token=READ_TOKEN) as answer:
            assert answer.status == 403


async def test_commands_set_show_and_release_a_hold(settings: Settings, email_id: int) -> None:
    reason = ("--reason", "Miller")
    made = await typed(
        settings, "holds", "create", "lawsuit", "--sender", ADA, "--email", str(email_id), *reason
    )
    nothing = await typed(settings, "holds", "create", "other", *reason)
    both = await typed(settings, "holds", "create", "other", "--everything", "--ticket", "1", *reason)
    listed, shown = (
        await typed(settings, "holds", "list"),
        await typed(settings, "holds", "show", "lawsuit", "--json"),
    )
    email = await typed(settings, "emails", "show", str(email_id))
    refused = await typed(settings, "holds", "release", "lawsuit", *reason)
    released = await typed(settings, "holds", "release", "lawsuit", "--reason", "Settled", "--yes")

    assert "Hold lawsuit is in force" in made.stdout
    assert (nothing.returncode, both.returncode, refused.returncode) == (1, 2, 2)
    assert listed.stdout.split("\t")[4] == f"sender {ADA}; 1 listed e-mail"
    assert json.loads(shown.stdout)["matching"] == 1
    assert "held by:       lawsuit" in email.stdout
    assert "Hold lawsuit is released" in released.stdout


async def test_a_hold_that_nothing_matches_is_shown_with_a_warning(
    client: Server, settings: Settings
) -> None:
    made = await typed(settings, "holds", "create", "early", "--sender", f" {ADA} ", "--reason", "Miller")
    refused = [
        await typed(settings, *words, "--ticket", "")
        for words in (
            ("holds", "create", "other", "--reason", "x"),
            ("retention", "add", "other", "--for-ever", "--yes"),
            ("erase", "--dry-run"),
        )
    ]

    assert f"sender {ADA}\n" in made.stdout
    assert "Warning: no e-mail on record matches the filter" in made.stderr
    assert "No e-mail on record matches the filter" in words_of(await read(client, "/holds/early"))
    for each in refused:
        assert each.returncode == 2
        assert "write its number alone" in each.stderr


async def test_commands_simulate_ask_and_save_rules(settings: Settings, email_id: int) -> None:
    words = ("retention", "add", "old", "--everything", "--days", "90")
    tried = await typed(settings, *words, "--dry-run")
    code, screen = await terminal(settings, *words, columns=120, keys=b"y\n")
    await typed(settings, "retention", "add", "mine", "--sender", ADA, "--for-ever", "--place", "1", "--yes")
    await typed(settings, "retention", "change", "old", "--days", "120", "--includes-failed", "--yes")
    listed, simulated = (
        await typed(settings, "retention", "list"),
        await typed(settings, "retention", "simulate", "--json"),
    )
    await typed(settings, "retention", "move", "old", "1", "--yes")
    await typed(settings, "retention", "remove", "mine", "--yes")
    left, short = (
        await typed(settings, "retention", "list"),
        await typed(settings, "retention", "add", "x", "--everything", "--days", "3", "--yes"),
    )

    assert "1 e-mail would be deleted now" in tried.stdout
    assert (code, "Saved." in screen, "Save these rules?" in screen) == (0, True, True)
    assert listed.stdout == f"1\tmine\tfor ever\tsender {ADA}\n2\told\t120 days, failed too\teverything\n"
    assert [rule["matching"] for rule in json.loads(simulated.stdout)["rules"]] == [1, 0]
    assert left.stdout == "1\told\t120 days, failed too\teverything\n"
    assert (short.returncode, "RETENTION_FLOOR_DAYS" in short.stderr) == (1, True)
