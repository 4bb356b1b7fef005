"""Carry out a plan: make or change our webhook and trigger, test them, and record them; or remove both."""

import asyncio
import json
import secrets as random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.connect import calls, record, secrets
from service.connect.plan import Plan
from service.connect.record import TEST_EVENT, Made, RecordedConnection
from service.errors import Permanent
from service.formatting import one_line
from service.postgres.email_tables import IgnoredWebhook
from service.postgres.engine import transaction
from service.resources import Resources
from service.zendesk.client import ZendeskClient
from service.zendesk.rules import (
    Trigger,
    Webhook,
    is_same_address,
    shown_address,
    trigger_json,
    webhook_json,
    webhook_repair_json,
)

# Web may have to learn the secret of the new webhook first.
_TESTS = 3
_PAUSE_SECONDS = 1.0
_NEWEST = 100

Say = Callable[[str], None]


async def apply(res: Resources, client: ZendeskClient, plan: Plan, say: Say) -> Made:
    """Carry out a plan, and say each step that is done; without steps only the test is made.

    After any error, the next run continues: the trigger becomes active last. Raises Transient and Permanent.
    """
    wish, standing = plan.wish, plan.standing
    await _test_new_address(res, client, plan, say)
    webhook = await _mend_webhook(client, plan, say)
    await _keep_secret(res, client, webhook, say)
    trigger = await _mend_trigger(client, plan, webhook, say)
    await _test(res, client, webhook)
    say(f"Zendesk's test reached this Holdfast at {wish.endpoint}, and its signature is right.")
    if not trigger.is_active:
        await calls.change_trigger(client, trigger.id, {"trigger": {"active": True}})
        say("The trigger is active.")
    made = Made(wish.endpoint, webhook.id, trigger.id, wish.condition)
    is_repaired = wish.repair and standing.recorded is not None and bool(standing.recorded.drift)
    if plan.steps or is_repaired or not _is_recorded(plan, made):
        await res.run(lambda conn: record.save(conn, record.account_of(res), made))
    return made


class Removal(NamedTuple):
    """The triggers and webhooks that a removal deletes."""

    triggers: Sequence[Trigger]
    webhooks: Sequence[Webhook]
    recorded: RecordedConnection | None
    moved: Sequence[Webhook] = ()  # the recorded one if its address is not ours any more: it stays

    @property
    def lines(self) -> Sequence[str]:
        """The plan in words."""
        made = {self.recorded.webhook_id, self.recorded.trigger_id} if self.recorded else set()

        def whose(number: str) -> str:
            return "" if number in made else " (connect did not make it)"

        return [
            *(f"Delete the trigger {each.id}: {each.title}{whose(each.id)}" for each in self.triggers),
            *(
                f"Delete the webhook {each.id} to {shown_address(each.endpoint)}{whose(each.id)}"
                for each in self.webhooks
            ),
        ]

    @property
    def notes(self) -> Sequence[str]:
        """What stays, in words."""
        return [
            f"The webhook {each.id} stays, with its triggers: its address is now {shown_address(each.endpoint)}."
            for each in self.moved
        ]


async def plan_removal(res: Resources, client: ZendeskClient, endpoint: str) -> Removal:
    """Return the triggers and webhooks that a removal deletes.

    Raises Permanent("trigger_in_use") for a trigger that also does something else.
    """
    known = await res.run(lambda conn: record.read(conn, record.account_of(res)))
    listed = await calls.list_webhooks(client)
    recorded = [each for each in listed if known and each.id == known.webhook_id]
    addresses = [endpoint, *([known.endpoint] if recorded and known else [])]
    moved = [each for each in recorded if not any(is_same_address(each.endpoint, own) for own in addresses)]
    webhooks = [
        each
        for each in listed
        if is_same_address(each.endpoint, endpoint) or (each in recorded and each not in moved)
    ]
    ours = {each.id for each in webhooks}
    triggers = [each for each in await calls.list_triggers(client) if any(map(each.notifies, ours))]
    for trigger in triggers:
        if trigger.others(*ours):
            named = f"“{one_line(trigger.title, 60)}” ({trigger.id})"
            raise Permanent(
                "trigger_in_use",
                f"The trigger {named} does other things too: remove its action for the webhook in Zendesk first",
            )
    return Removal(triggers, webhooks, known, moved)


async def remove(res: Resources, client: ZendeskClient, removal: Removal, say: Say) -> None:
    """Deactivate and delete triggers, then webhooks, and forget the connection. Raises Transient and Permanent."""
    for trigger in removal.triggers:
        if trigger.is_active:
            await calls.change_trigger(client, trigger.id, {"trigger": {"active": False}})
        await calls.delete_trigger(client, trigger.id)
        say(f"The trigger {trigger.id} is deleted.")
    for webhook in removal.webhooks:
        if webhook.is_active:
            await calls.change_webhook(client, webhook.id, {"webhook": {"status": "inactive"}})
        await calls.delete_webhook(client, webhook.id)
        say(f"The webhook {webhook.id} is deleted.")

    async def forget(conn: AsyncConnection) -> None:
        async with transaction(conn):
            await record.forget(conn, record.account_of(res))
            await secrets.forget(conn, record.account_of(res))

    await res.run(forget)


async def _test_new_address(res: Resources, client: ZendeskClient, plan: Plan, say: Say) -> None:
    """Test a new address before a webhook that works gets it: else no e-mail is announced until somebody mends it."""
    endpoint, webhook = plan.wish.endpoint, plan.standing.webhook
    if webhook is None or not webhook.is_active or is_same_address(webhook.endpoint, endpoint):
        return
    await _keep_secret(res, client, webhook, say)
    await _test(res, client, replace(webhook, endpoint=endpoint))
    say(f"Zendesk's test reached this Holdfast at the new address {endpoint}.")


async def _mend_webhook(client: ZendeskClient, plan: Plan, say: Say) -> Webhook:
    endpoint, webhook = plan.wish.endpoint, plan.standing.webhook
    if webhook is None:
        webhook = await calls.make_webhook(client, webhook_json(endpoint))
        say(f"The webhook is made ({webhook.id}).")
    elif plan.has("change_webhook"):
        await calls.change_webhook(client, webhook.id, webhook_repair_json(endpoint))
        say(f"The webhook is changed ({webhook.id}).")
        webhook = await calls.show_webhook(client, webhook.id) or webhook
    return webhook


async def _keep_secret(res: Resources, client: ZendeskClient, webhook: Webhook, say: Say) -> None:
    """Keep the signing secret, unless Zendesk does not show it: ZENDESK_WEBHOOK_SECRETS may have it."""
    try:
        secret = await secrets.fetch_secret(client, webhook.id)
    except Permanent as exc:
        if exc.code not in {"forbidden", "not_found"}:
            raise
        secret = None
    if secret is None:
        say("Zendesk does not show the signing secret: set ZENDESK_WEBHOOK_SECRETS to it.")
        return
    await secrets.keep(res, {webhook.id: secret})
    say("Its signing secret is kept, encrypted: there is nothing to copy.")


async def _mend_trigger(client: ZendeskClient, plan: Plan, webhook: Webhook, say: Say) -> Trigger:
    clauses, trigger = plan.standing.clauses, plan.standing.trigger
    if trigger is None:
        trigger = await calls.make_trigger(client, trigger_json(webhook.id, clauses, is_active=False))
        say(f"The trigger is made, and not active yet ({trigger.id}).")
    elif plan.has("change_trigger"):
        request = trigger_json(webhook.id, clauses, is_active=trigger.is_active, title=trigger.title)
        await calls.change_trigger(client, trigger.id, request)
        say(f"The trigger is changed ({trigger.id}).")
    return trigger


async def _test(res: Resources, client: ZendeskClient, webhook: Webhook) -> None:
    """Have Zendesk send a signed request, and find it among our ignored ones: only a verified one gets there."""
    mark = random.token_hex(12)
    status, said = 0, ""
    for number in range(_TESTS):
        if number:
            await asyncio.sleep(_PAUSE_SECONDS)
        status, said = await calls.test_webhook(client, webhook, _test_payload(mark))
        if 200 <= status < 300:
            break
    else:
        raise Permanent("webhook_test_failed", _reason(status, said))
    if not await res.run(lambda conn: _has_arrived(conn, mark)):
        other = (
            f"Zendesk's test got status {status} from {webhook.endpoint}, but no request is in this database:"
            " another program answers there, or it has another database"
        )
        raise Permanent("webhook_test_failed", other)


def _test_payload(mark: str) -> str:
    event = {"type": TEST_EVENT, "account_id": 0, "id": f"holdfast-{mark}", "subject": "holdfast:connect"}
    return json.dumps({**event, "detail": {}, "event": {}})


async def _has_arrived(conn: AsyncConnection, mark: str) -> bool:
    newest = (
        select(IgnoredWebhook.event_type, IgnoredWebhook.raw_body)
        .order_by(IgnoredWebhook.id.desc())
        .limit(_NEWEST)
        .subquery()
    )
    has_mark = func.position(literal(mark.encode()).op("IN")(newest.c.raw_body)) > 0
    found = select(literal(1)).where(newest.c.event_type == TEST_EVENT, has_mark).limit(1)
    return await conn.scalar(found) is not None


def _reason(status: int, said: str) -> str:
    if not status:
        return "Zendesk cannot reach the address: check that it is public, and that its certificate is valid"
    text = one_line(said, 200)
    if status == 401:
        return f"Our address refuses the signature of Zendesk's test: restart web, and try again ({text})"
    return f"The address answered Zendesk's test with status {status} instead of 200: {text or 'no text'}"


def _is_recorded(plan: Plan, made: Made) -> bool:
    known = plan.standing.recorded
    return known is not None and made == Made(
        known.endpoint, known.webhook_id, known.trigger_id, known.condition
    )
