"""What Zendesk has of our webhook and trigger, and the steps from there to a working connection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from service.connect import calls, record
from service.connect.record import RecordedConnection
from service.errors import Permanent
from service.formatting import one_line
from service.resources import Resources
from service.zendesk.account import OAuthClient
from service.zendesk.client import ZendeskClient
from service.zendesk.rules import (
    Clause,
    Clauses,
    Condition,
    Drift,
    Trigger,
    Webhook,
    is_same_address,
    trigger_drift,
    wanted_clauses,
    webhook_drift,
)

_ADMIN_ADVICE = (
    "make the owner of the credentials an administrator for this command, and lower the role afterwards"
)


class Wish(NamedTuple):
    """The wish of a person who connects."""

    endpoint: str
    condition: Condition
    repair: bool = False


@dataclass(frozen=True)
class Standing:
    """What Zendesk has at the moment."""

    user_id: int
    role: str
    scopes: Sequence[str] | None
    webhook: Webhook | None
    unfit: Webhook | None  # one with our address or the recorded one, which triggers cannot notify
    spare_webhooks: Sequence[Webhook]  # others with our address, which triggers may notify
    trigger: Trigger | None
    spare_triggers: Sequence[Trigger]  # others that notify our webhook
    clauses: Clauses  # those that we want
    not_offered: Sequence[Clause]
    recorded: RecordedConnection | None


class Step(NamedTuple):
    """One step of the plan."""

    kind: Literal["make_webhook", "change_webhook", "make_trigger", "change_trigger", "activate"]
    text: str


@dataclass(frozen=True)
class Plan:
    """The steps to a working connection; none if all is as it should be."""

    wish: Wish
    standing: Standing
    steps: Sequence[Step]
    # Changes at Zendesk since we connected, which only `--repair` puts back.
    held_back: Sequence[Drift]
    notes: Sequence[str]

    def has(self, kind: str) -> bool:
        return any(step.kind == kind for step in self.steps)


async def make_plan(res: Resources, client: ZendeskClient, wish: Wish) -> Plan:
    """Look at Zendesk's webhooks and triggers, and plan. Raises Transient and Permanent."""
    standing = await look(res, client, wish)
    webhook, trigger = standing.webhook, standing.trigger
    known = standing.recorded.webhook_id if standing.recorded else None
    unfit = standing.unfit if standing.unfit is not None and standing.unfit.id == known else None
    at_webhook = webhook_drift(webhook or unfit, wish.endpoint)
    at_trigger = trigger_drift(trigger, webhook.id if webhook else "", standing.clauses)
    notes = list(_notes(standing))
    if _was_connected(standing.recorded, wish) and not wish.repair:
        return Plan(wish, standing, (), (*at_webhook, *at_trigger), notes)
    return Plan(
        wish,
        standing,
        (*_webhook_steps(webhook, wish, at_webhook), *_trigger_steps(standing, at_trigger)),
        (),
        notes,
    )


async def look(res: Resources, client: ZendeskClient, wish: Wish) -> Standing:
    """Ask Zendesk for our user, its webhooks and its triggers. Raises Transient and Permanent."""
    user_id, role = await identify(res)
    account = record.account_of(res)
    recorded = await res.run(lambda conn: record.read(conn, account))
    scopes = None
    if isinstance(res.account.login, OAuthClient):
        scopes = await _scopes(client)
    try:
        webhooks = await calls.list_webhooks(client)
        webhook, unfit, spare_webhooks = _choose_webhook(webhooks, wish.endpoint, recorded)
        triggers = await calls.list_triggers(client)
        offered = await calls.show_offered_channels(client) if wish.condition == "mail" else None
    except Permanent as exc:
        raise _explained(exc, role) from exc
    trigger, spare = _choose_trigger(triggers, webhook, recorded)
    clauses, not_offered = wanted_clauses(wish.condition, offered)
    return Standing(
        user_id, role, scopes, webhook, unfit, spare_webhooks, trigger, spare, clauses, not_offered, recorded
    )


async def identify(res: Resources) -> tuple[int, str]:
    """Return id and role of the user of the credentials; raises Permanent("credentials_refused") for an anonymous one."""
    answer = await res.zendesk.current_user()
    match answer.get("user"):
        case {"id": int(number), "role": str(role)}:
            return number, one_line(role, 50)
        case _:
            raise Permanent(
                "credentials_refused", "Zendesk does not know these credentials: `holdfast check` tells more"
            )


async def _scopes(client: ZendeskClient) -> Sequence[str] | None:
    try:
        return await calls.show_scopes(client)
    except Permanent as exc:
        if exc.code != "credentials_refused":
            raise
        wanted = " and ".join(calls.WRITE_SCOPES)
        refused = f"Zendesk gives this OAuth client no access token with the scopes {wanted}: allow them for the client"
        raise Permanent("credentials_refused", refused) from exc


def _choose_webhook(
    webhooks: Sequence[Webhook], endpoint: str, recorded: RecordedConnection | None
) -> tuple[Webhook | None, Webhook | None, Sequence[Webhook]]:
    """Return our webhook, the recorded one or an active one with our address; one that triggers cannot notify; the others."""
    known = recorded.webhook_id if recorded else None
    found = [each for each in webhooks if each.id == known or is_same_address(each.endpoint, endpoint)]
    found.sort(key=lambda each: (each.id != known, not each.is_active, each.id))
    fit, unfit = (
        [each for each in found if each.is_notified],
        [each for each in found if not each.is_notified],
    )
    return next(iter(fit), None), next(iter(unfit), None), [each for each in fit[1:] if each.is_active]


def _choose_trigger(
    triggers: Sequence[Trigger], webhook: Webhook | None, recorded: RecordedConnection | None
) -> tuple[Trigger | None, Sequence[Trigger]]:
    """Return our trigger, the recorded one or one that only notifies our webhook, and the others that notify it."""
    known = recorded.trigger_id if recorded else None
    found = [each for each in triggers if each.id == known or (webhook and each.notifies(webhook.id))]
    found.sort(key=lambda each: (each.id != known, not each.is_active, len(each.id), each.id))
    # A change replaces all actions: those of somebody else's trigger must stay.
    fit = [each for each in found if each.id == known or (webhook and not each.others(webhook.id))]
    ours = fit[0] if fit else None
    return ours, [each for each in found if each is not ours]


def _was_connected(recorded: RecordedConnection | None, wish: Wish) -> bool:
    """Tell whether this very connection was made before: then a difference was made by somebody at Zendesk."""
    if recorded is None:
        return False
    return recorded.condition == wish.condition and is_same_address(recorded.endpoint, wish.endpoint)


def _webhook_steps(webhook: Webhook | None, wish: Wish, drift: Sequence[Drift]) -> Sequence[Step]:
    if webhook is None:
        return [Step("make_webhook", f"Make the webhook “Holdfast” to {wish.endpoint}.")]
    if drift:
        changes = " ".join(each.text for each in drift)
        return [Step("change_webhook", f"Change the webhook {_named(webhook.name, webhook.id)}. {changes}")]
    return []


def _trigger_steps(standing: Standing, drift: Sequence[Drift]) -> Sequence[Step]:
    trigger, wanted = standing.trigger, standing.clauses
    activate = Step("activate", "Activate the trigger, after Zendesk's test of the webhook has reached us.")
    if trigger is None:
        made = f"Make the trigger “Holdfast: e-mails”, not active yet. Its conditions: {wanted}."
        return [Step("make_trigger", made), activate]
    changes = [each.text for each in drift if each.code != "trigger_inactive"]
    steps = []
    if changes:
        text = f"Change the trigger {_named(trigger.title, trigger.id)}. {' '.join(changes)} Its conditions will be: {wanted}."
        if removed := trigger.others(standing.webhook.id if standing.webhook else ""):
            text += f" These actions are removed: {one_line(', '.join(removed), 200)}."
        steps.append(Step("change_trigger", text))
    return steps if trigger.is_active else [*steps, activate]


def _notes(standing: Standing) -> Sequence[str]:
    notes = []
    lacking = [scope for scope in calls.WRITE_SCOPES if not _allows(standing.scopes, scope)]
    if lacking:
        notes.append(
            f"The access token lacks {' and '.join(lacking)}: changes will fail. Allow them for the OAuth client."
        )
    if standing.role != "admin":
        notes.append(
            f"The user is no administrator ({standing.role}): changes may fail. If so, {_ADMIN_ADVICE}."
        )
    notes += [
        f"The account does not offer the condition “{clause}”: it is left out."
        for clause in standing.not_offered
    ]
    if standing.unfit is not None:
        named = _named(standing.unfit.name, standing.unfit.id)
        notes.append(f"No trigger can notify the webhook {named}, and it is left as it is.")
    notes += [
        f"The webhook {_named(spare.name, spare.id)} has this address too, and is left as it is: with a trigger of its own,"
        " each e-mail is announced twice."
        for spare in standing.spare_webhooks
    ]
    notes += [
        f"The trigger {_named(spare.title, spare.id)} notifies the webhook too, and is left as it is."
        for spare in standing.spare_triggers
    ]
    return notes


def _allows(scopes: Sequence[str] | None, scope: str) -> bool:
    return scopes is None or scope in scopes or scope.partition(":")[2] in scopes


def _explained(exc: Permanent, role: str) -> Permanent:
    if exc.code not in {"forbidden", "not_found"}:
        return exc
    who = f"user with the role {role}" if role else "user"
    return Permanent(exc.code, f"Zendesk does not show webhooks and triggers to this {who}: {_ADMIN_ADVICE}")


def _named(name: str, number: str) -> str:
    return f"“{one_line(name, 60)}” ({number})"
