"""The state of the stand-in's webhooks and triggers; tests and drills change it as people change things at Zendesk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from service.local.zendesk.sender import WebhookResponse

Json = dict[str, object]


@dataclass(eq=False)
class StoredWebhook:
    """A webhook, with its fields as the API has them."""

    id: str
    secret: str
    fields: Json

    @property
    def endpoint(self) -> str:
        return str(self.fields["endpoint"])

    @property
    def status(self) -> str:
        return str(self.fields["status"])


@dataclass(eq=False)
class StoredTrigger:
    """A trigger, with its fields as the API has them."""

    id: str
    fields: Json

    @property
    def active(self) -> bool:
        return self.fields.get("active", True) is True

    @property
    def every(self) -> Sequence[Mapping[str, object]]:
        return self._conditions("all")

    @property
    def some(self) -> Sequence[Mapping[str, object]]:
        return self._conditions("any")

    @property
    def notifies(self) -> Iterator[tuple[str, str]]:
        """The webhooks that it notifies, each with its body."""
        actions = self.fields["actions"]
        for action in actions if isinstance(actions, list) else ():
            if action["field"] == "notification_webhook":
                webhook_id, body = action["value"]
                yield webhook_id, body

    def uses(self, webhook_id: str) -> bool:
        return any(each == webhook_id for each, _ in self.notifies)

    def shown(self) -> Json:
        return {"raw_title": self.fields.get("title"), "position": 1, **self.fields, "id": int(self.id)}

    def _conditions(self, name: str) -> Sequence[Mapping[str, object]]:
        match self.fields.get("conditions"):
            case {"all": [*every], "any": [*some]}:
                return every if name == "all" else some
            case _:
                return []


@dataclass(frozen=True, eq=False)
class Invocation:
    """One delivery of a webhook, with its last answer."""

    id: str
    webhook_id: str
    completed_at: datetime
    answer: WebhookResponse
    body: str
    headers: Mapping[str, str] = field(repr=False)

    @property
    def status(self) -> str:
        return "success" if 200 <= self.answer.status < 300 else "failed"


@dataclass
class RuleState:
    """All webhooks and triggers of the account, their invocations, and how deliveries go wrong."""

    webhooks: dict[str, StoredWebhook] = field(default_factory=dict)
    triggers: dict[str, StoredTrigger] = field(default_factory=dict)
    invocations: list[Invocation] = field(default_factory=list)
    scopes: dict[str, str] = field(default_factory=dict)  # by access token
    update_vias: dict[str, str] = field(
        default_factory=lambda: {"0": "Web form", "4": "Email", "21": "Recovered", "27": "Closed ticket"}
    )
    tickets: set[str] | None = None  # those whose comments fire triggers; None for all
    withholds: bool = False  # no webhook is delivered
    withhold_each: int | None = None  # each so many-th webhook is not delivered
    withheld: list[tuple[str, int]] = field(
        default_factory=list
    )  # tickets and comments without their webhook
    _due: int = 0

    def sees(self, ticket_id: str) -> bool:
        """Tell whether comments of a ticket fire triggers."""
        return self.tickets is None or ticket_id in self.tickets

    def withholds_next(self) -> bool:
        """Tell whether the next webhook is lost on its way."""
        self._due += 1
        return self.withholds or (self.withhold_each is not None and self._due % self.withhold_each == 0)

    def deactivate_webhooks(self) -> None:
        for webhook in self.webhooks.values():
            webhook.fields["status"] = "inactive"

    def break_bodies(self) -> None:
        """Let an administrator mistype the placeholder of the comment in all triggers."""
        for trigger in self.triggers.values():
            actions = trigger.fields["actions"]
            for action in actions if isinstance(actions, list) else ():
                webhook_id, body = action["value"]
                action["value"] = [webhook_id, body.replace("latest_comment.id", "last_comment.id")]

    def narrow_conditions(self) -> None:
        """Let an administrator announce only comments from the web form, of tickets that were opened there."""
        for trigger in self.triggers.values():
            channels = [
                {"field": name, "operator": "is", "value": "0"} for name in ("current_via_id", "via_id")
            ]
            trigger.fields["conditions"] = {"all": channels, "any": []}
