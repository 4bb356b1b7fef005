"""Drift: each change at Zendesk is found within its calls, told, and put back on request."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from service.alerts.connection import find as find_alerts
from service.alerts.watch import look_once
from service.checks.connection import check_connection
from service.checks.probe import Check
from service.config.settings import Settings
from service.connect import drift, record
from service.connect.record import CHECK_EVERY, RecordedConnection
from service.errors import HoldfastError, Permanent, Transient
from service.local.zendesk.sender import WebhookResponse
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources, open_resources
from service.zendesk.rules import REPAIRABLE
from tests.conftest import Server, eventually, working
from tests.support.connecting import connect, plan, trigger_of, webhook_of, without_secret
from tests.support.source import use_budget

MOST_CALLS = 7


async def recorded(res: Resources) -> RecordedConnection:
    connection = await res.run(lambda conn: record.read(conn, record.account_of(res)))
    assert connection is not None
    return connection


async def codes(res: Resources) -> list[str]:
    return [each.code for each in await drift.check(res, await recorded(res))]


def change_conditions(zendesk: Zendesk, **lists: list[dict[str, str]]) -> None:
    conditions = trigger_of(zendesk).fields["conditions"]
    assert isinstance(conditions, dict)
    trigger_of(zendesk).fields["conditions"] = {**conditions, **lists}


def clause(field: str, value: str) -> dict[str, str]:
    return {"field": field, "operator": "is", "value": value}


def delete_webhook(zendesk: Zendesk) -> None:
    zendesk.state.rules.webhooks.clear()


CHANGES: dict[str, tuple[Callable[[Zendesk], object], set[str]]] = {
    "webhook gone": (delete_webhook, {"webhook_gone"}),
    "webhook inactive": (lambda zendesk: zendesk.state.rules.deactivate_webhooks(), {"webhook_inactive"}),
    "address": (lambda zendesk: webhook_of(zendesk).fields.update(endpoint="https://other.example/x?key=s3cret"), {"webhook_changed"}),
    "method": (lambda zendesk: webhook_of(zendesk).fields.update(http_method="PUT"), {"webhook_changed"}),
    "format": (lambda zendesk: webhook_of(zendesk).fields.update(request_format="xml"), {"webhook_changed"}),
    "trigger gone": (lambda zendesk: zendesk.state.rules.triggers.clear(), {"trigger_gone"}),
    "trigger inactive": (lambda zendesk: trigger_of(zendesk).fields.update(active=False), {"trigger_inactive"}),
    "channel": (
        lambda zendesk: change_conditions(zendesk, all=[clause("via_id", "4")]),
        {"trigger_changed", "trigger_loses_replies"},
    ),
    "a lost condition": (
        lambda zendesk: change_conditions(zendesk, any=[clause("current_via_id", "4")]),
        {"trigger_changed"},
    ),
    "body": (lambda zendesk: zendesk.state.rules.break_bodies(), {"trigger_changed"}),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES.keys())
async def test_each_change_is_found_told_and_put_back(
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    change: Callable[[Zendesk], object],
    expected: set[str],
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        assert await codes(res) == []
        change(zendesk)
        calls = zendesk.state.api_calls
        found = {*await codes(res)}
        calls = zendesk.state.api_calls - calls
        alerts = await res.run(find_alerts)
        check = await check_connection(res)
        held_back = await plan(res, client)
        await connect(res, client, repair=True)
        after, alerts_after = await codes(res), await res.run(find_alerts)
        again = await plan(res, client)

    assert found == expected <= REPAIRABLE
    assert calls <= MOST_CALLS
    assert [alert.cause for alert in alerts] == ["drift"]
    assert "holdfast connect --repair" in alerts[0].detail
    assert "s3cret" not in alerts[0].detail
    assert (check.ok, held_back.steps) == (False, ())
    assert {each.code for each in held_back.held_back} >= expected
    assert (after, alerts_after, again.steps, again.held_back) == ([], [], (), ())


def spread_out(zendesk: Zendesk) -> None:
    """Write the same conditions and body as another program would."""
    trigger = trigger_of(zendesk)
    conditions, actions = trigger.fields["conditions"], trigger.fields["actions"]
    assert isinstance(conditions, dict)
    assert isinstance(actions, list)
    for clauses in conditions.values():
        clauses.reverse()
        clauses.append(dict(clauses[0]))
        for each in clauses:
            each["value"] = int(each["value"]) if each["value"].isdigit() else each["value"]
    webhook_id, body = actions[0]["value"]
    actions[0]["value"] = [webhook_id, body.replace("{{", "{{  ").replace("\n", "\r\n   ")]
    trigger.fields.update(title="Our trigger", position=99, description="Do not touch")
    webhook_of(zendesk).fields.update(
        endpoint=webhook_of(zendesk).endpoint + "/", name="Other", http_method="post"
    )


@pytest.mark.parametrize(
    ("subscriptions", "expected"),
    [([], ["webhook_unsubscribed"]), (["x"], ["webhook_unsubscribed"]), (None, [])],
)
async def test_a_missing_subscription_is_found(
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    subscriptions: list[str] | None,
    expected: list[str],
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        webhook_of(zendesk).fields["subscriptions"] = subscriptions

        assert await codes(res) == expected


async def test_another_spelling_is_no_drift(settings: Settings, zendesk: Zendesk, res: Resources) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        spread_out(zendesk)

        assert await codes(res) == []


async def deliver(zendesk: Zendesk, ticket: int = 1) -> None:
    zendesk.add_email(ticket)
    await zendesk.delivered()


async def connect_before(res: Resources, client: Server, database: asyncpg.Connection) -> None:
    await connect(res, client)
    # The stand-in tells times to the second, as Zendesk does.
    await database.execute("UPDATE connections SET connected_at = now() - interval '5 minutes'")


async def test_a_delivered_webhook_that_is_here_is_no_drift(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect_before(res, client, database)
        await deliver(zendesk)

        assert await codes(res) == []


async def test_a_body_without_a_comment_is_found_in_what_was_sent(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect_before(res, client, database)
        zendesk.state.rules.break_bodies()
        await deliver(zendesk)

        assert await codes(res) == ["trigger_changed", "body_without_comment"]


async def test_only_the_place_of_the_comment_is_shown_and_only_if_no_body_names_one(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect_before(res, client, database)
        await deliver(zendesk)
        (good,) = zendesk.state.rules.invocations
        body = '{"comment_id": "none", "subject": "A private matter"}'
        later = good.completed_at + timedelta(seconds=1)
        bad = replace(good, id="bad", body=body, completed_at=later)
        zendesk.state.rules.invocations.append(bad)
        mixed = await codes(res)
        zendesk.state.rules.invocations.remove(good)
        (found,) = await drift.check(res, await recorded(res))

    assert (mixed, found.code) == ([], "body_without_comment")
    assert '"none"' in found.text
    assert "private" not in found.text


@pytest.mark.parametrize("name", ["invocations", "attempts"])
async def test_certain_drift_survives_the_failure_of_a_later_call(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection, name: str
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect_before(res, client, database)
        await deliver(zendesk)
        trigger_of(zendesk).fields["active"] = False
        zendesk.state.rule_faults[name] = Fault(status=500)
        found = await codes(res)

    assert found == ["trigger_inactive"]
    assert (await recorded(res)).error_code is None


async def test_a_webhook_that_was_delivered_to_another_program_is_found(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect_before(res, client, database)
        await deliver(zendesk)
        for table in ("incoming_emails", "ignored_webhooks"):
            await database.execute(f"DELETE FROM {table}")
        found = await codes(res)
        detail = (await res.run(find_alerts))[0].detail

    assert found == ["delivered_elsewhere"]
    assert "--repair" not in detail, "a repair does not help"


async def test_many_emails_that_no_webhook_announced_hide_the_newest_webhook(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """Nothing is concluded where the newest webhook is not among the newest e-mails."""
    async with without_secret(settings, zendesk) as client:
        await connect_before(res, client, database)
        await deliver(zendesk)
        await database.execute("UPDATE incoming_emails SET received_at = now() - interval '2 hours'")
        await database.execute("UPDATE ignored_webhooks SET received_at = now() - interval '2 hours'")
        few = await codes(res)
        await database.execute(
            "INSERT INTO incoming_emails (zendesk_ticket_id, comment_id, account_id, origin)"
            " SELECT n::text, n::text, 'x', 'backfill' FROM generate_series(1, 5000) AS n"
        )
        many = await codes(res)

    assert (few, many) == (["delivered_elsewhere"], [])


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([200], []),
        ([401, 200], ["invocations_failed"]),
        ([500, *[200] * 19], ["invocations_failed"]),
        ([500, *[200] * 39], []),
        ([500, 200, 200], []),
    ],
)
async def test_the_share_of_failed_webhooks_is_reported(
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    database: asyncpg.Connection,
    statuses: list[int],
    expected: list[str],
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect_before(res, client, database)
        await deliver(zendesk)
        (one,) = zendesk.state.rules.invocations
        zendesk.state.rules.invocations[:] = [
            replace(one, answer=WebhookResponse(status, {}, b"", 1)) for status in statuses
        ]

        assert await codes(res) == expected


async def test_failures_before_the_connection_or_an_hour_ago_say_nothing(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect_before(res, client, database)
        await database.execute("UPDATE connections SET connected_at = now() - interval '1 day'")
        await deliver(zendesk)
        (one,) = zendesk.state.rules.invocations
        old = replace(
            one, answer=WebhookResponse(500, {}, b"", 1), completed_at=datetime.now(UTC) - timedelta(hours=2)
        )
        zendesk.state.rules.invocations.append(old)

        assert await codes(res) == []


async def test_the_circuit_breaker_is_named(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    async with without_secret(settings, zendesk) as client:
        await connect_before(res, client, database)
        listed = (
            f'{{"invocations": [{{"id": "a", "status": "Circuit Broken", "latest_completed_at": "{now}"}}]}}'
        )
        zendesk.state.rule_faults["invocations"] = Fault(status=200, body=listed.encode())

        assert await codes(res) == ["circuit_breaker", "invocations_failed"]


async def test_drift_is_found_while_the_calls_of_workers_are_used_up(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """During a backlog there may be no call left for hours."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        await database.execute("DELETE FROM api_budgets")
        await use_budget(database, settings, 2.0)
        trigger_of(zendesk).fields["active"] = False
        found = await codes(res)
        checked = await check_connection(res)

    assert found == ["trigger_inactive"]
    assert (checked.ok, "not active" in checked.found) == (False, True)
    with pytest.raises(Transient):
        await res.zendesk.get("/api/v2/users/me.json")


async def test_one_worker_checks_once_an_hour(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        fresh = await drift.check_when_due(res)
        await database.execute("UPDATE connections SET checked_at = now() - $1::interval", CHECK_EVERY * 2)
        due = [await drift.check_when_due(res) for _ in range(3)]

    assert (fresh, due) == (False, [True, False, False])


async def test_drift_opens_an_alert_that_a_repair_resolves(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async def opened() -> list[str]:
        await database.execute("UPDATE alert_watch SET next_at = now()")
        await look_once(res)
        rows = await database.fetch("SELECT cause FROM alerts WHERE cause = 'drift' AND resolved_at IS NULL")
        return [row["cause"] for row in rows]

    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        before = await opened()
        zendesk.state.rules.deactivate_webhooks()
        await codes(res)
        found = await eventually(opened)
        await connect(res, client, repair=True)

        assert (before, found) == ([], ["drift"])
        assert await res.run(find_alerts) == []


async def test_a_repair_without_steps_ends_the_recorded_drift(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """Somebody put it back at Zendesk."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        trigger_of(zendesk).fields["active"] = False
        await codes(res)
        trigger_of(zendesk).fields["active"] = True
        made, _ = await connect(res, client, repair=True)

    assert (made.steps, (await recorded(res)).drift) == ((), [])
    assert await res.run(find_alerts) == []


async def test_a_worker_checks_by_itself(
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drift, "LOOK_SECONDS", 0.1)
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
    zendesk.state.rules.deactivate_webhooks()
    await database.execute("UPDATE connections SET checked_at = now() - $1::interval", CHECK_EVERY * 2)

    async def found() -> list[str]:
        return [each.code for each in (await recorded(res)).drift]

    async with working(settings):
        assert await eventually(found) == ["webhook_inactive"]


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_what_is_known_stays_while_zendesk_does_not_tell(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection, status: int
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        zendesk.state.rules.deactivate_webhooks()
        await codes(res)
        zendesk.state.rule_faults["webhook"] = Fault(status=status)
        with pytest.raises(HoldfastError) as caught:
            await codes(res)
        connection = await recorded(res)

    assert [each.code for each in connection.drift] == ["webhook_inactive"]
    assert connection.error_code == caught.value.code


HOSTILE: list[Any] = [b"", b"<html>", b"[1]", b"{}", b'{"trigger": 7, "webhook": 7, "invocations": 7, "attempts": 7}',
    b'{"invocations": [7, {"id": 1}, {"id": "../x", "status": "success", "latest_completed_at": "2026-11-30T00:00:00Z"}]}',
    b'{"trigger": {"id": 1, "conditions": {"all": 7}, "actions": []}}']  # fmt: skip


@pytest.mark.parametrize("name", ["webhook", "trigger", "definitions", "invocations", "attempts"])
@pytest.mark.parametrize("body", HOSTILE)
async def test_a_hostile_answer_is_no_drift(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection, name: str, body: bytes
) -> None:
    """Nothing is concluded from it."""
    async with without_secret(settings, zendesk) as client:
        await connect_before(res, client, database)
        await deliver(zendesk)
        zendesk.state.rule_faults[name] = Fault(status=200, body=body)
        try:
            found = await codes(res)
        except (Transient, Permanent):
            found = []

    assert found == []


async def test_a_read_only_postgres_is_no_fault_of_zendesk(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    assert settings.database_url
    url = SecretStr(f"{settings.database_url.get_secret_value()}&default_transaction_read_only=on")
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
    async with open_resources(res.settings.model_copy(update={"database_url": url})) as reading:
        check = await check_connection(reading)

    assert check == Check("connection", False, "not checked: Postgres accepts no writes", "see postgres")
