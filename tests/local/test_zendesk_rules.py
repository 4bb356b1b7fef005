"""The stand-in's webhooks and triggers behave as Zendesk's documents say."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from service.local.zendesk.stand_in import Zendesk
from service.zendesk.rules import trigger_json, wanted_clauses, webhook_json
from service.zendesk.signature import INVOCATION_ID, SIGNATURE, TIMESTAMP, WEBHOOK_ID, sign

Call = Any


class Endpoint:
    """A receiver of webhooks that records them, and answers with `statuses`, at last with a 200."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.url = ""

    async def receive(self, request: web.Request) -> web.Response:
        self.received.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Retry-After": "0"})


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    app = web.Application()
    app.router.add_post("/hook", endpoint.receive)
    async with TestServer(app) as server:
        endpoint.url = str(server.make_url("/hook"))
        yield endpoint


@pytest.fixture
async def call(zendesk: Zendesk) -> AsyncIterator[Call]:
    """Call the API with the API token; return status and JSON."""
    basic = base64.b64encode(f"{zendesk.email}/token:{zendesk.api_token}".encode()).decode()
    async with ClientSession(headers={"Authorization": f"Basic {basic}"}) as session:

        async def call(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
            url = f"{zendesk.url}/api/v2/{path}"
            async with session.request(method, url, json=body, headers=headers) as response:
                text = await response.text()
                return response.status, json.loads(text) if text else None

        yield call


async def connect(call: Call, endpoint: Endpoint, **changes: Any) -> tuple[str, int]:
    """Make a webhook and an active trigger; return their ids."""
    status, made = await call("POST", "webhooks", webhook_json(endpoint.url))
    assert status == 201
    clauses, _ = wanted_clauses("mail", None)
    request: Any = trigger_json(made["webhook"]["id"], clauses, is_active=True)
    request["trigger"].update(changes)
    status, trigger = await call("POST", "triggers.json", request)
    assert status == 201
    return made["webhook"]["id"], trigger["trigger"]["id"]


async def test_an_active_trigger_announces_a_new_email_once_and_signed(
    zendesk: Zendesk, endpoint: Endpoint, call: Call
) -> None:
    webhook, _ = await connect(call, endpoint)
    comment = zendesk.add_email(4711)
    await zendesk.delivered()
    _, secret = await call("GET", f"webhooks/{webhook}/signing_secret")

    ((headers, body),) = endpoint.received
    assert json.loads(body) == {
        "ticket_id": "4711",
        "comment_id": str(comment),
        "updated_at": zendesk.state.tickets["4711"]["updated_at"],
    }
    assert headers[WEBHOOK_ID] == webhook
    assert headers[SIGNATURE] == sign(secret["signing_secret"]["secret"], headers[TIMESTAMP], body)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"channel": "email"}, 1),
        ({"channel": "mail"}, 1),
        ({"channel": 4}, 1),
        ({"channel": "web"}, 0),
        ({"channel": "api"}, 0),
        ({"follows": 9}, 1),
        ({"channel": "email", "public": False}, 1),
    ],
)
async def test_conditions_decide_by_the_channel_of_the_update(
    zendesk: Zendesk, endpoint: Endpoint, call: Call, more: dict[str, Any], expected: int
) -> None:
    await connect(call, endpoint)
    zendesk.add_comment(1, **more)
    await zendesk.delivered()

    assert len(endpoint.received) == expected


async def test_a_condition_on_the_tickets_channel_loses_replies(
    zendesk: Zendesk, endpoint: Endpoint, call: Call
) -> None:
    via = {"all": [{"field": "via_id", "operator": "is", "value": "4"}], "any": []}
    await connect(call, endpoint, conditions=via)
    zendesk.add_comment(1, channel="web")
    zendesk.add_comment(1, channel="email")
    await zendesk.delivered()

    assert endpoint.received == []


async def test_nothing_fires_while_trigger_or_webhook_is_inactive(
    zendesk: Zendesk, endpoint: Endpoint, call: Call
) -> None:
    webhook, trigger = await connect(call, endpoint)
    await call("PUT", f"triggers/{trigger}", {"trigger": {"active": False}})
    zendesk.add_email(1)
    await zendesk.delivered()
    await call("PUT", f"triggers/{trigger}", {"trigger": {"active": True}})
    await call("PATCH", f"webhooks/{webhook}", {"webhook": {"status": "inactive"}})
    zendesk.add_email(2)
    await zendesk.delivered()

    assert endpoint.received == []


async def test_a_put_of_conditions_empties_the_actions(
    zendesk: Zendesk, endpoint: Endpoint, call: Call
) -> None:
    _, trigger = await connect(call, endpoint)
    _, changed = await call("PUT", f"triggers/{trigger}", {"trigger": {"conditions": {"all": [], "any": []}}})

    assert changed["trigger"]["actions"] == []


async def test_invocations_tell_how_each_ended_and_what_was_sent(
    zendesk: Zendesk, endpoint: Endpoint, call: Call
) -> None:
    webhook, _ = await connect(call, endpoint)
    endpoint.statuses = [503, 200, 500]
    zendesk.add_email(1)
    await zendesk.delivered()
    zendesk.add_email(2)
    await zendesk.delivered()
    _, listed = await call("GET", f"webhooks/{webhook}/invocations?sort=-latest_completed_at")
    first = listed["invocations"][-1]["id"]
    _, attempts = await call("GET", f"webhooks/{webhook}/invocations/{first}/attempts")

    assert [each["status"] for each in listed["invocations"]] == ["failed", "success"]
    assert len({headers[INVOCATION_ID] for headers, _ in endpoint.received}) == 2, (
        "a repetition is no new one"
    )
    assert json.loads(attempts["attempts"][0]["request"]["payload"])["ticket_id"] == "1"


async def test_webhooks_can_be_withheld(zendesk: Zendesk, endpoint: Endpoint, call: Call) -> None:
    await connect(call, endpoint)
    zendesk.state.rules.withhold_each = 5
    comments = [zendesk.add_email(number) for number in range(20)]
    await zendesk.delivered()

    assert len(endpoint.received) == 16
    assert len(zendesk.state.rules.withheld) == 4
    assert {comment for _, comment in zendesk.state.rules.withheld} <= {*comments}


async def test_triggers_may_see_some_tickets_alone(zendesk: Zendesk, endpoint: Endpoint, call: Call) -> None:
    await connect(call, endpoint)
    zendesk.state.rules.tickets = {"2"}
    for number in range(3):
        zendesk.add_email(number)
    await zendesk.delivered()

    assert [json.loads(body)["ticket_id"] for _, body in endpoint.received] == ["2"]


async def test_a_broken_body_renders_nothing_for_the_comment(
    zendesk: Zendesk, endpoint: Endpoint, call: Call
) -> None:
    await connect(call, endpoint)
    zendesk.state.rules.break_bodies()
    zendesk.add_email(1)
    await zendesk.delivered()

    assert json.loads(endpoint.received[0][1])["comment_id"] == ""


async def test_a_webhook_in_use_is_not_deleted(zendesk: Zendesk, endpoint: Endpoint, call: Call) -> None:
    webhook, trigger = await connect(call, endpoint)
    refused, _ = await call("DELETE", f"webhooks/{webhook}")
    await call("DELETE", f"triggers/{trigger}")
    deleted, _ = await call("DELETE", f"webhooks/{webhook}")
    gone, _ = await call("GET", f"webhooks/{webhook}")

    assert (refused, deleted, gone) == (422, 204, 404)


async def test_a_reset_ends_the_old_secret(zendesk: Zendesk, endpoint: Endpoint, call: Call) -> None:
    webhook, _ = await connect(call, endpoint)
    _, old = await call("GET", f"webhooks/{webhook}/signing_secret")
    _, new = await call("POST", f"webhooks/{webhook}/signing_secret")

    assert old != new
    assert (await call("GET", f"webhooks/{webhook}/signing_secret"))[1] == new


@pytest.mark.parametrize(
    ("scope", "read", "written"),
    [
        ("read", 200, 403),
        ("read webhooks:write", 200, 201),
        ("read write", 200, 201),
        ("tickets:read", 403, 403),
    ],
)
async def test_a_token_may_do_what_its_scopes_say(
    zendesk: Zendesk, endpoint: Endpoint, scope: str, read: int, written: int
) -> None:
    asked = {
        "grant_type": "client_credentials",
        "client_id": zendesk.client_id,
        "client_secret": zendesk.client_secret,
        "scope": scope,
    }
    async with ClientSession(zendesk.url) as session:
        async with session.post("/oauth/tokens", json=asked) as response:
            headers = {"Authorization": f"Bearer {(await response.json())['access_token']}"}
        async with session.get("/api/v2/webhooks", headers=headers) as response:
            status = response.status
        async with session.post("/api/v2/webhooks", json=webhook_json(endpoint.url), headers=headers) as made:
            assert (status, made.status) == (read, written)


async def test_agents_see_no_webhooks(zendesk: Zendesk, call: Call) -> None:
    zendesk.state.users[1001]["role"] = "agent"

    assert (await call("GET", "webhooks"))[0] == 403
