"""Connecting: from an empty account to the first kept e-mail, and nothing more the second time."""

import asyncio
import json

import asyncpg
import pytest
from pydantic import SecretStr

from service.config.settings import Settings
from service.connect.apply import plan_removal, remove
from service.connect.calls import CONNECT_SCOPE
from service.errors import HoldfastError, Permanent, Transient
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources, open_resources
from service.zendesk.client import MOST_PAGE_BYTES
from service.zendesk.rules import BODY
from tests.conftest import working
from tests.support.connecting import connect, plan, trigger_of, webhook_of, without_secret, writes
from tests.support.files import PDF
from tests.support.source import use_budget


async def test_an_empty_account_is_connected_and_its_first_email_kept(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """No secret is in the settings, and nothing is copied."""
    async with without_secret(settings, zendesk) as client, working(settings):
        await connect(res, client)
        zendesk.add_email(77, text="Hello", attachments=[zendesk.add_file("a.pdf", PDF)])
        await zendesk.delivered()
        (invocation,) = zendesk.state.rules.invocations
        email = await client.until(invocation.answer.json()["email_id"], "completed", "failed")

    assert (email["processing_status"], email["zendesk_ticket_id"]) == ("completed", "77")
    assert [file["status"] for file in email["attachments"]] == ["stored"]
    assert await database.fetchval("SELECT count(*) FROM quarantined_webhooks") == 0
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 1


async def test_the_trigger_becomes_active_after_the_test_and_has_what_the_plan_said(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        made, _ = await connect(res, client)

    trigger = trigger_of(zendesk)
    assert trigger.active
    assert [step.kind for step in made.steps] == ["make_webhook", "make_trigger", "activate"]
    assert {str(each["value"]) for each in trigger.some} == {"4", "27", "21"}
    assert [each["value"] for each in trigger.every] == ["not_relevant"]
    assert webhook_of(zendesk).fields["subscriptions"] == ["conditional_ticket_events"]
    ((_, body),) = trigger.notifies
    assert all(placeholder in body for placeholder in BODY.values())


async def test_a_second_run_changes_nothing(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        before, row = writes(zendesk), await database.fetchrow("SELECT * FROM connections")
        again, _ = await connect(res, client)

    assert again.steps == ()
    assert writes(zendesk) == before
    assert await database.fetchrow("SELECT * FROM connections") == row


async def test_a_plan_changes_nothing(settings: Settings, zendesk: Zendesk, res: Resources) -> None:
    async with without_secret(settings, zendesk) as client:
        made = await plan(res, client)

    assert made.steps
    assert writes(zendesk) == {}


async def test_a_webhook_that_a_person_made_is_adopted(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """Its address is spelt in another way, and its trigger misses replies."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        async with res.engine.connect() as conn:
            await conn.exec_driver_sql("DELETE FROM connections")
        webhook, trigger = webhook_of(zendesk), trigger_of(zendesk)
        webhook.fields.update(endpoint=f"{client.webhook}/".replace("/webhooks", "//webhooks"), name="Mine")
        conditions = {"all": [{"field": "via_id", "operator": "is", "value": "4"}], "any": []}
        trigger.fields.update(title="My trigger", conditions=conditions)
        made, _ = await connect(res, client)

    assert [step.kind for step in made.steps] == ["change_trigger"]
    assert "Channel is Email" in made.steps[0].text
    assert webhook_of(zendesk) is webhook
    assert trigger_of(zendesk).fields["title"] == "My trigger"
    assert {str(each["value"]) for each in trigger_of(zendesk).some} == {"4", "27", "21"}


async def test_a_webhook_that_no_trigger_can_notify_is_not_adopted(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """Its subscription cannot be changed, so a repair makes another webhook, too."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        old = webhook_of(zendesk)
        old.fields["subscriptions"] = ["zen:event-type:ticket.created"]
        shown = await plan(res, client)
        made, _ = await connect(res, client, repair=True)
        again = await plan(res, client)

    assert [each.code for each in shown.held_back] == ["webhook_unsubscribed", "trigger_changed"]
    assert [step.kind for step in made.steps] == ["make_webhook", "change_trigger"]
    ((notified, _),) = trigger_of(zendesk).notifies
    assert notified != old.id
    assert (again.steps, again.held_back) == ((), ())
    assert any(old.id in note for note in again.notes)


OTHERS = [
    {"field": "priority", "value": "high"},
    {"field": "notification_webhook", "value": ["01K9ZD7Q3W5HHZBANOTHER0000", "{}"]},
]


@pytest.mark.parametrize("other", OTHERS)
async def test_a_trigger_that_does_other_things_is_adopted_only_if_it_is_recorded(
    settings: Settings, zendesk: Zendesk, res: Resources, other: dict[str, object]
) -> None:
    """A change replaces all its actions, so the plan says which ones are removed."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        actions = trigger_of(zendesk).fields["actions"]
        assert isinstance(actions, list)
        actions.append(other)
        recorded = await plan(res, client, repair=True)
        async with res.engine.connect() as conn:
            await conn.exec_driver_sql("DELETE FROM connections")
        mixed = trigger_of(zendesk)
        made, _ = await connect(res, client)

    assert [step.kind for step in recorded.steps] == ["change_trigger"]
    assert "These actions are removed: " in recorded.steps[0].text
    assert [step.kind for step in made.steps] == ["make_trigger", "activate"]
    assert any("is left as it is" in note for note in made.notes)
    assert mixed.fields["actions"] == actions
    assert len(zendesk.state.rules.triggers) == 2


async def test_a_connection_is_made_while_the_calls_of_workers_are_used_up(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """Workers take each minute's calls first, for as long as they have a backlog: there might never be one left."""
    await use_budget(database, settings, 2.0)
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        with pytest.raises(Transient) as waiting:
            await res.zendesk.get("/api/v2/users/me.json")

    assert trigger_of(zendesk).active
    assert waiting.value.code == "rate_limited"


async def test_two_connections_at_once_are_told_by_the_next_run(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """Each makes a webhook and a trigger: all e-mails are announced twice, and kept once."""
    async with without_secret(settings, zendesk) as client:
        await asyncio.gather(connect(res, client), connect(res, client))
        again = await plan(res, client)

    assert len(zendesk.state.rules.webhooks) == 2
    recorded = again.standing.recorded
    (other,) = {*zendesk.state.rules.webhooks} - {recorded and recorded.webhook_id}
    (note,) = again.notes
    assert other in note
    assert "announced twice" in note


async def test_a_condition_that_the_account_does_not_offer_is_left_out_and_said(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    del zendesk.state.rules.update_vias["21"]
    async with without_secret(settings, zendesk) as client:
        made, _ = await connect(res, client)
        again = await plan(res, client)

    assert {str(each["value"]) for each in trigger_of(zendesk).some} == {"4", "27"}
    assert any("Recovered from suspended tickets" in note for note in made.notes)
    assert (again.steps, again.held_back) == ((), ())


async def test_all_comments_are_announced_on_request(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        made, _ = await connect(res, client, condition="any")

    assert [step.kind for step in made.steps] == ["change_trigger"]
    assert trigger_of(zendesk).some == []


@pytest.mark.parametrize("after", ["make webhook", "make trigger", "test webhook"])
async def test_an_interrupted_run_is_continued_by_the_next(
    settings: Settings, zendesk: Zendesk, res: Resources, after: str
) -> None:
    async with without_secret(settings, zendesk) as client:
        names = ["make webhook", "make trigger", "test webhook", "change trigger"]
        zendesk.state.rule_faults[names[names.index(after) + 1]] = Fault(status=500)
        with pytest.raises(HoldfastError):
            await connect(res, client)
        zendesk.state.rule_faults.clear()
        await connect(res, client)

    assert trigger_of(zendesk).active
    assert writes(zendesk)["make webhook"] == 1


async def test_no_trigger_is_active_if_the_test_does_not_arrive(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        client.webhook = client.webhook.replace("127.0.0.1", "127.0.0.2")
        with pytest.raises(Permanent) as caught:
            await connect(res, client)

    assert caught.value.code == "webhook_test_failed"
    assert not trigger_of(zendesk).active


async def test_a_webhook_keeps_its_address_if_the_test_does_not_arrive_at_the_new_one(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        working, before = client.webhook, writes(zendesk)
        client.webhook = working.replace("127.0.0.1", "127.0.0.2")
        with pytest.raises(Permanent) as caught:
            await connect(res, client)

    assert caught.value.code == "webhook_test_failed"
    assert (webhook_of(zendesk).endpoint, writes(zendesk)) == (working, before)


async def test_another_program_at_the_address_does_not_pass_the_test(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """It answers each request with a 200, but our database knows nothing of it."""
    async with without_secret(settings, zendesk) as client:
        client.webhook = f"{zendesk.cdn_url}/anything"
        zendesk.state.rule_faults["test webhook"] = Fault(
            status=200, body=b'{"response": {"status": 200, "payload": "{}"}}'
        )
        with pytest.raises(Permanent, match="another program") as caught:
            await connect(res, client)

    assert caught.value.code == "webhook_test_failed"


async def test_removal_deletes_trigger_webhook_and_secret(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client, res.zendesk.with_scope(CONNECT_SCOPE) as wide:
        await connect(res, client)
        await remove(res, wide, await plan_removal(res, wide, client.webhook), lambda _line: None)

    assert (zendesk.state.rules.webhooks, zendesk.state.rules.triggers) == ({}, {})
    assert await database.fetchval("SELECT count(*) FROM connections") == 0
    assert await database.fetchval("SELECT count(*) FROM signing_secrets") == 0


async def test_a_removal_leaves_a_webhook_that_has_another_address_now(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client, res.zendesk.with_scope(CONNECT_SCOPE) as wide:
        await connect(res, client)
        webhook_of(zendesk).fields["endpoint"] = "https://other.example/x?key=s3cret"
        found = await plan_removal(res, wide, client.webhook)
        await remove(res, wide, found, lambda _line: None)

    assert found.lines == []
    assert "its address is now https://other.example/x." in found.notes[0]
    assert trigger_of(zendesk).active


async def test_a_removal_says_what_connect_did_not_make_and_shows_no_secret(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client, res.zendesk.with_scope(CONNECT_SCOPE) as wide:
        await connect(res, client)
        own = await plan_removal(res, wide, client.webhook)
        async with res.engine.connect() as conn:
            await conn.exec_driver_sql("DELETE FROM connections")
        webhook_of(zendesk).fields["endpoint"] = address = f"{client.webhook}?key=s3cret"
        others = await plan_removal(res, wide, address)

    assert not any("did not make" in line for line in own.lines)
    assert [line.endswith("(connect did not make it)") for line in others.lines] == [True, True]
    assert not any("s3cret" in line for line in others.lines)


async def test_a_trigger_that_does_other_things_is_not_deleted(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client, res.zendesk.with_scope(CONNECT_SCOPE) as wide:
        await connect(res, client)
        actions = trigger_of(zendesk).fields["actions"]
        assert isinstance(actions, list)
        actions.append({"field": "priority", "value": "high"})
        with pytest.raises(Permanent) as caught:
            await plan_removal(res, wide, client.webhook)

    assert caught.value.code == "trigger_in_use"


async def test_an_agent_and_a_narrow_token_are_told_what_to_do(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        made = await plan(res, client)
        zendesk.state.users[1001]["role"] = "agent"
        with pytest.raises(Permanent) as caught:
            await plan(res, client)

    assert made.notes == []
    assert caught.value.code == "forbidden"
    assert "administrator" in caught.value.message


async def test_a_client_that_may_not_have_the_scopes_is_told_so(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    await res.zendesk.current_user()
    zendesk.state.token_faults.append(Fault(status=400, body=b'{"error": "invalid_scope"}'))
    async with without_secret(settings, zendesk) as client:
        with pytest.raises(Permanent) as caught:
            await plan(res, client)

    assert caught.value.code == "credentials_refused"
    assert "webhooks:write and triggers:write" in caught.value.message


async def test_a_token_with_fewer_scopes_than_asked_for_is_noted(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    body = b'{"token": {"scopes": ["read", "webhooks:write"]}}'
    zendesk.state.rule_faults["oauth/tokens/current"] = Fault(status=200, body=body)
    async with without_secret(settings, zendesk) as client:
        made = await plan(res, client)

    assert [note for note in made.notes if "lacks triggers:write" in note]


async def test_the_wider_token_is_for_the_command_alone(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        await res.zendesk.get("/api/v2/users/me.json")

    assert set(zendesk.state.rules.scopes.values()) == {"read", CONNECT_SCOPE}
    latest = zendesk.state.account_authorizations[-1].removeprefix("Bearer ")
    assert zendesk.state.rules.scopes[latest] == "read"


async def test_credentials_without_an_oauth_client_connect_too(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    changed = {
        "zendesk_oauth_client_id": None,
        "zendesk_oauth_client_secret": None,
        "zendesk_email": zendesk.email,
        "zendesk_api_token": SecretStr(zendesk.api_token),
    }
    settings = settings.model_copy(update=changed)
    async with without_secret(settings, zendesk) as client, open_resources(settings) as res:
        await connect(res, client)

    assert trigger_of(zendesk).active


HOSTILE = {
    "not json": b"<html>",
    "a list": b"[]",
    "no list": b'{"webhooks": 7, "triggers": {}}',
    "deep": b'{"webhooks": ' + b"[" * 3000,
    "wrong types": b'{"webhooks": [7, null, {"id": 9}, {"id": "../../x", "endpoint": "a"}], "triggers": [{}]}',
}


@pytest.mark.parametrize(
    "name",
    ["webhooks", "triggers", "definitions", "make webhook", "make trigger", "test webhook", "signing secret"],
)
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_answer_is_an_error_with_a_code_or_skipped(
    settings: Settings, zendesk: Zendesk, res: Resources, name: str, body: bytes
) -> None:
    zendesk.state.rule_faults[name] = Fault(status=200, body=body)
    code = "none"
    async with without_secret(settings, zendesk) as client:
        try:
            await connect(res, client)
        except (Transient, Permanent) as exc:
            code = exc.code

    skipped = {"webhooks", "triggers", "definitions", "signing secret"}
    assert code in {"bad_response", "webhook_test_failed", *({"none"} if name in skipped else ())}


@pytest.mark.parametrize("name", ["webhooks", "triggers"])
async def test_a_list_without_end_is_read_for_a_bounded_number_of_pages(
    settings: Settings, zendesk: Zendesk, res: Resources, name: str
) -> None:
    body = json.dumps({name: [], "links": {"next": f"{zendesk.url}/api/v2/{name}"}}).encode()
    zendesk.state.rule_faults[name] = Fault(status=200, body=body)
    async with without_secret(settings, zendesk) as client:
        await plan(res, client)

    assert zendesk.state.calls[name] <= 50


@pytest.mark.parametrize("body", [b" " * (MOST_PAGE_BYTES + 1), b'{"webhooks": [], "links": {"next": "http://127.0.0.1:1/api/v2/x"}}'])  # fmt: skip
async def test_a_huge_list_and_one_that_goes_on_elsewhere_are_errors(
    settings: Settings, zendesk: Zendesk, res: Resources, body: bytes
) -> None:
    zendesk.state.rule_faults["webhooks"] = Fault(status=200, body=body)
    async with without_secret(settings, zendesk) as client:
        with pytest.raises(HoldfastError) as caught:
            await plan(res, client)

    assert caught.value.code in {"too_large", "connection_failed"}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
        (409, "not_ready"),
        (422, "invalid_record"),
        (429, "rate_limited"),
        (500, "server_error"),
        (302, "unexpected_status"),
    ],
)
async def test_a_refused_write_has_a_code_and_is_made_once(
    settings: Settings, zendesk: Zendesk, res: Resources, status: int, code: str
) -> None:
    zendesk.state.rule_faults["make webhook"] = Fault(status=status, body=b'{"error": "no"}')
    async with without_secret(settings, zendesk) as client:
        with pytest.raises(HoldfastError) as caught:
            await connect(res, client)

    assert caught.value.code == code
    assert zendesk.state.calls["make webhook"] == (2 if status == 401 else 1)
