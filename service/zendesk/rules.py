"""Webhooks and triggers of an account: those that Holdfast wants, and in what others differ from them.

https://developer.zendesk.com/api-reference/webhooks/webhooks-api/webhooks/
https://developer.zendesk.com/api-reference/ticketing/business-rules/triggers/
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from yarl import URL

from service.formatting import one_line
from service.zendesk.body import Unreadable, read_json, text_of

# The path of our webhook, below the path prefix.
WEBHOOK_PATH = "/webhooks/zendesk"
WEBHOOK_NAME = "Holdfast"
TRIGGER_TITLE = "Holdfast: e-mails [do not edit]"
# The subscription of a webhook that triggers notify.
SUBSCRIPTION = "conditional_ticket_events"
# The body of the webhook: nothing in it was written by a customer.
BODY: Mapping[str, str] = {
    "ticket_id": "{{ticket.id}}",
    "comment_id": "{{ticket.latest_comment.id}}",
    "updated_at": "{{ticket.updated_at_with_timestamp}}",
}
# `mail` announces updates by e-mail, `any` all comments.
Condition = Literal["mail", "any"]
CONDITIONS: Sequence[Condition] = get_args(Condition)

MOST_ENDPOINT = 2048
_MOST_CLAUSES = 200  # of a trigger
_MOST_ACTIONS = 100
_MOST_VALUE = 300  # characters
_MOST_BODY = 64 * 1024
_WEBHOOK_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TRIGGER_ID = re.compile(r"[0-9]{1,30}")
_NOTIFY = "notification_webhook"
_FIELDS = {"current_via_id": "Update via", "via_id": "Channel", "comment_is_public": "Comment"}
_VALUES = {
    ("comment_is_public", "not_relevant"): "Present",
    ("current_via_id", "4"): "Email",
    ("current_via_id", "27"): "Closed ticket",
    ("current_via_id", "21"): "Recovered from suspended tickets",
    ("via_id", "4"): "Email",
}

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook at Zendesk."""

    id: str
    name: str
    endpoint: str
    http_method: str
    request_format: str
    status: str
    subscriptions: tuple[str, ...] | None  # None where Zendesk does not tell

    @property
    def is_notified(self) -> bool:
        """Whether triggers can notify it."""
        return self.subscriptions is None or SUBSCRIPTION in self.subscriptions

    @property
    def is_active(self) -> bool:
        return self.status == "active"


class Clause(NamedTuple):
    """One condition of a trigger."""

    field: str
    operator: str
    value: str

    def __str__(self) -> str:
        field = _FIELDS.get(self.field, self.field)
        value = _VALUES.get((self.field, self.value), self.value)
        return f"{field} {self.operator.replace('_', ' ')} {value}".strip()


@dataclass(frozen=True, slots=True)
class Clauses:
    """The conditions of a trigger: `every` must hold, and one of `some`, if there are any."""

    every: frozenset[Clause]
    some: frozenset[Clause]

    def __str__(self) -> str:
        some = ", ".join(map(str, _ordered(self.some)))
        every = " and ".join(map(str, _ordered(self.every)))
        return f"{every}, and one of: {some}" if some else every


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger at Zendesk."""

    id: str
    title: str
    is_active: bool
    clauses: Clauses
    notified: tuple[tuple[str, str], ...]  # ids of webhooks, and their bodies
    other_actions: tuple[str, ...]

    def notifies(self, webhook_id: str) -> bool:
        return any(each == webhook_id for each, _ in self.notified)

    def others(self, *webhook_ids: str) -> list[str]:
        """Name its actions besides notifying these webhooks."""
        notified = sorted({each for each, _ in self.notified if each not in webhook_ids})
        return [
            *(f"set {each}" for each in self.other_actions),
            *(f"notify the webhook {each}" for each in notified),
        ]


class Drift(NamedTuple):
    """A change at Zendesk to our webhook or trigger, or a sign that they do not do their work."""

    code: str
    text: str


# Drift that `holdfast connect --repair` puts back.
REPAIRABLE = frozenset(
    {
        *("webhook_gone", "webhook_inactive", "webhook_changed", "webhook_unsubscribed"),
        *("trigger_gone", "trigger_inactive", "trigger_changed", "trigger_loses_replies"),
    }
)

_PRESENT = Clause("comment_is_public", "is", "not_relevant")
_CHANNELS = tuple(Clause("current_via_id", "is", value) for value in ("4", "27", "21"))


def endpoint_of(address: str, prefix: str = "") -> str:
    """Return the address of the webhook of a service at `address`, which may end with the webhook's path.

    `prefix` is the path prefix of the service, for an address without a path.
    """
    url = URL(address)
    path = "/" + "/".join(part for part in url.raw_path.split("/") if part)
    if path.endswith(WEBHOOK_PATH):
        path = path.removesuffix(WEBHOOK_PATH)
    base = prefix if path in {"", "/"} else path
    return str(url.origin().with_path(f"{base.rstrip('/')}{WEBHOOK_PATH}", encoded=True))


def is_same_address(one: str, other: str) -> bool:
    """Compare two addresses without letter case of the host, default ports, and doubled or trailing slashes."""
    return _address(one) == _address(other) is not None


def shown_address(text: str) -> str:
    """Show an address without its query and user, which may hold a secret."""
    return one_line(re.sub(r"//[^/?#]*@", "//", re.split("[?#]", text)[0]), 200) or "empty"


def read_webhook(value: object) -> Webhook | None:
    """Read a webhook of the API; None for any other value."""
    if not isinstance(value, dict):
        return None
    number, endpoint, listed = value.get("id"), value.get("endpoint"), value.get("subscriptions")
    if not (isinstance(number, str) and _WEBHOOK_ID.fullmatch(number)):
        return None
    if not (isinstance(endpoint, str) and len(endpoint) <= MOST_ENDPOINT):
        return None
    return Webhook(
        number,
        _text(value.get("name")),
        endpoint,
        _text(value.get("http_method")).upper(),
        _text(value.get("request_format")).lower(),
        _text(value.get("status")).lower(),
        tuple(_text(each) for each in listed[:_MOST_ACTIONS] if isinstance(each, str))
        if isinstance(listed, list)
        else None,
    )


def read_trigger(value: object) -> Trigger | None:
    """Read a trigger of the API; None for any other value, and for one with more conditions than a person makes."""
    if not isinstance(value, dict):
        return None
    number = text_of(value.get("id")) or ""
    clauses = _read_clauses(value.get("conditions"))
    actions = value.get("actions")
    if not _TRIGGER_ID.fullmatch(number) or clauses is None or not isinstance(actions, list):
        return None
    if len(actions) > _MOST_ACTIONS:
        return None
    notified, others = [], []
    for action in actions:
        match action:
            case {"field": "notification_webhook", "value": [str(webhook_id), str(body), *_]}:
                notified.append((webhook_id[:_MOST_VALUE], body[:_MOST_BODY]))
            case {"field": str(field)}:
                others.append(_text(field))
            case _:
                return None
    title = _text(value.get("title"))
    return Trigger(number, title, value.get("active") is True, clauses, tuple(notified), tuple(others))


def read_offered(answer: object, field: str) -> frozenset[str] | None:
    """Return the values that `triggers/definitions` offers for a condition; None where it does not tell."""
    definitions = answer.get("definitions") if isinstance(answer, dict) else None
    listed = definitions.get("conditions_any") if isinstance(definitions, dict) else None
    for one in listed[:1000] if isinstance(listed, list) else ():
        match one:
            case {"subject": str(subject), "values": [*values]} if subject == field and values:
                found = (text_of(each.get("value")) for each in values if isinstance(each, dict))
                return frozenset(filter(None, found))
    return None


def wanted_clauses(condition: Condition, offered: frozenset[str] | None) -> tuple[Clauses, list[Clause]]:
    """Return the conditions that we want, and those that the account does not offer.

    `offered` are the values of *Update via*, None where they are not known. Without any of them, the trigger has no
    condition about the channel: it announces more, and misses nothing.
    """
    if condition == "any":
        return Clauses(frozenset({_PRESENT}), frozenset()), []
    missing = [each for each in _CHANNELS if offered is not None and each.value not in offered]
    return Clauses(frozenset({_PRESENT}), frozenset(_CHANNELS) - {*missing}), missing


def webhook_json(endpoint: str) -> dict[str, object]:
    """Return the request that makes our webhook."""
    webhook = {
        "name": WEBHOOK_NAME,
        "endpoint": endpoint,
        "http_method": "POST",
        "request_format": "json",
        "status": "active",
        "subscriptions": [SUBSCRIPTION],
    }
    return {"webhook": webhook}


def webhook_repair_json(endpoint: str) -> dict[str, object]:
    """Return the request that puts back the properties of our webhook; its subscription cannot be changed."""
    webhook = {"endpoint": endpoint, "http_method": "POST", "request_format": "json", "status": "active"}
    return {"webhook": webhook}


def trigger_json(
    webhook_id: str, clauses: Clauses, *, is_active: bool, title: str = TRIGGER_TITLE
) -> dict[str, object]:
    """Return the request that makes or replaces our trigger, with all its conditions and actions."""
    conditions = {"all": _clauses_json(clauses.every), "any": _clauses_json(clauses.some)}
    actions = [{"field": _NOTIFY, "value": [webhook_id, json.dumps(BODY, indent=2)]}]
    return {
        "trigger": {"title": title, "active": is_active, "conditions": conditions, "actions": actions},
    }


def webhook_drift(webhook: Webhook | None, endpoint: str) -> list[Drift]:
    """Name the differences of a webhook from ours."""
    if webhook is None:
        return [Drift("webhook_gone", "The webhook is gone.")]
    changed = []
    if not is_same_address(webhook.endpoint, endpoint):
        changed.append(f"Its address is {shown_address(webhook.endpoint)} and not {endpoint}.")
    if webhook.http_method != "POST":
        changed.append(f"Its request method is {webhook.http_method or 'unknown'} and not POST.")
    if webhook.request_format != "json":
        changed.append(f"Its request format is {webhook.request_format or 'unknown'} and not JSON.")
    found = [Drift("webhook_changed", f"The webhook was changed. {' '.join(changed)}")] if changed else []
    if not webhook.is_active:
        found.append(Drift("webhook_inactive", f"The webhook is {webhook.status or 'not active'}."))
    if not webhook.is_notified:
        text = f"The webhook has no subscription {SUBSCRIPTION}: no trigger can notify it, and only a new webhook gets one."
        found.append(Drift("webhook_unsubscribed", text))
    return found


def trigger_drift(trigger: Trigger | None, webhook_id: str, clauses: Clauses) -> list[Drift]:
    """Name the differences of a trigger from the one with these conditions, which notifies our webhook."""
    if trigger is None:
        return [Drift("trigger_gone", "The trigger is gone.")]
    found = [] if trigger.is_active else [Drift("trigger_inactive", "The trigger is not active.")]
    changed = [
        *_clause_changes(trigger.clauses.every, clauses.every, "ALL"),
        *_clause_changes(trigger.clauses.some, clauses.some, "ANY"),
        *_action_changes(trigger, webhook_id),
    ]
    if changed:
        found.append(Drift("trigger_changed", f"The trigger was changed. {' '.join(changed)}"))
    if any(each.field == "via_id" for each in trigger.clauses.every | trigger.clauses.some):
        loses = (
            "The trigger has a condition on Channel: it misses e-mailed replies to tickets of other channels."
        )
        found.append(Drift("trigger_loses_replies", loses))
    return found


def offers_matter(trigger: Trigger) -> bool:
    """Say whether a trigger lacks a channel that the account may not offer: only then do the offers matter."""
    return not frozenset(_CHANNELS) <= trigger.clauses.some


def _read_clauses(value: object) -> Clauses | None:
    if not isinstance(value, dict):
        return None
    lists = [value.get(name) or [] for name in ("all", "any")]
    if not all(isinstance(each, list) and len(each) <= _MOST_CLAUSES for each in lists):
        return None
    every, some = (frozenset(filter(None, map(_read_clause, each))) for each in lists)
    return Clauses(every, some)


def _read_clause(value: object) -> Clause | None:
    if not isinstance(value, dict):
        return None
    given = value.get("value")
    text = text_of(given)
    if text is None and given not in (None, ""):
        text = json.dumps(given, sort_keys=True)
    field = _text(value.get("field") or value.get("source"))
    return Clause(field, _text(value.get("operator")), _text(text))


def _clauses_json(clauses: Collection[Clause]) -> list[dict[str, str]]:
    return [each._asdict() for each in _ordered(clauses)]


def _ordered(clauses: Collection[Clause]) -> list[Clause]:
    """Put ours first, in an order that is easy to read."""
    known = {clause: place for place, clause in enumerate((_PRESENT, *_CHANNELS))}
    return sorted(clauses, key=lambda each: (known.get(each, len(known)), each))


def _clause_changes(found: frozenset[Clause], wanted: frozenset[Clause], name: str) -> Iterator[str]:
    for clause in sorted(wanted - found):
        yield f"It lacks the condition “{clause}” under {name}."
    for clause in sorted(found - wanted):
        yield f"It has the condition “{one_line(str(clause), 100)}” under {name}."


def _action_changes(trigger: Trigger, webhook_id: str) -> Iterator[str]:
    bodies = [body for notified, body in trigger.notified if notified == webhook_id]
    if not bodies:
        yield "It does not notify our webhook."
        return
    if len(trigger.notified) > len(bodies):
        yield "It notifies another webhook too."
    if len(bodies) > 1:
        yield "It notifies our webhook more than once."
    if trigger.other_actions:
        yield f"It has other actions: {one_line(', '.join(trigger.other_actions), 100)}."
    yield from _body_changes(bodies[0])


def _body_changes(body: str) -> Iterator[str]:
    """Compare a body with ours as JSON, without the spaces within placeholders."""
    try:
        data = read_json(body)
    except Unreadable:
        data = None
    if not isinstance(data, dict):
        yield "Its body is not a JSON object."
        return
    for key, wanted in BODY.items():
        given = data.get(key)
        if not isinstance(given, str) or _placeholder(given) != wanted:
            yield f"In the body, {key} is {one_line(json.dumps(given, ensure_ascii=False), 80)} and not {wanted}."
    if others := sorted(set(data) - set(BODY)):
        yield f"The body has more fields: {one_line(', '.join(others), 80)}."


def _placeholder(text: str) -> str:
    return re.sub(r"\{\{\s*([^{}\s]*)\s*\}\}", r"{{\1}}", text.strip())


def _address(text: str) -> tuple[str, str, int | None, str, str] | None:
    try:
        url = URL(text.strip())
        path = "/".join(part for part in url.raw_path.split("/") if part)
        return url.scheme.lower(), (url.raw_host or "").lower(), url.port, path, url.raw_query_string
    except ValueError:
        return None


def _text(value: object) -> str:
    return one_line(text_of(value) or "", _MOST_VALUE)
