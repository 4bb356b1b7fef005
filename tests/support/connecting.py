"""Connect a running Holdfast to the stand-in as `holdfast connect` does."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from service.config.settings import Settings
from service.connect.apply import apply
from service.connect.calls import CONNECT_SCOPE
from service.connect.plan import Plan, Wish, make_plan
from service.local.zendesk.rule_state import StoredTrigger, StoredWebhook
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.zendesk.rules import Condition
from tests.conftest import Server, serving


@asynccontextmanager
async def without_secret(settings: Settings, zendesk: Zendesk) -> AsyncIterator[Server]:
    """Run the web server without a signing secret in its settings."""
    async with serving(settings.model_copy(update={"zendesk_webhook_secrets": ()}), zendesk) as client:
        yield client


async def plan(res: Resources, client: Server, **changes: Any) -> Plan:
    """Make the plan that leads to a webhook at the server's address."""
    async with res.zendesk.with_scope(CONNECT_SCOPE) as zendesk:
        return await make_plan(res, zendesk, Wish(client.webhook, "mail")._replace(**changes))


async def connect(
    res: Resources, client: Server, *, condition: Condition = "mail", repair: bool = False
) -> tuple[Plan, Sequence[str]]:
    """Plan and carry it out; return the plan and what was said."""
    said: list[str] = []
    async with res.zendesk.with_scope(CONNECT_SCOPE) as zendesk:
        made = await make_plan(res, zendesk, Wish(client.webhook, condition, repair))
        await apply(res, zendesk, made, said.append)
    return made, said


def webhook_of(zendesk: Zendesk) -> StoredWebhook:
    (webhook,) = zendesk.state.rules.webhooks.values()
    return webhook


def trigger_of(zendesk: Zendesk) -> StoredTrigger:
    (trigger,) = zendesk.state.rules.triggers.values()
    return trigger


def writes(zendesk: Zendesk) -> dict[str, int]:
    """Return the calls that changed something at the stand-in, by name."""
    words = ("make", "change", "delete", "reset")
    return {name: count for name, count in zendesk.state.calls.items() if name.startswith(words)}
