"""The stand-in's webhooks and triggers: their API, and triggers that fire for new comments.

https://developer.zendesk.com/api-reference/webhooks/webhooks-api/webhooks/
https://developer.zendesk.com/api-reference/ticketing/business-rules/triggers/
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from aiohttp import ClientError, ClientSession, web

from service.config.settings import PUBLIC_TEST_SECRET
from service.local.zendesk.access import STATE, answer_of, bearer, signed_in, unauthenticated
from service.local.zendesk.mail import timestamp
from service.local.zendesk.rule_state import Invocation, Json, RuleState, StoredTrigger, StoredWebhook
from service.local.zendesk.sender import WebhookResponse, send, sign_headers
from service.local.zendesk.state import AGENT_ID, StandInState
from service.zendesk.signature import INVOCATION_ID, WEBHOOK_ID

_PLACEHOLDER = re.compile(r"\{\{\s*([^{}\s]*)\s*\}\}")
_ULID = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VIA = {"web": "0", "api": "5", "email": "4", "mail": "4", 4: "4", "chat": "29", "suspended": "21"}

Handler = Callable[[web.Request], Awaitable[web.Response]]


def add_rule_endpoints(app: web.Application) -> None:
    for method, path, name, scope, handler in _ENDPOINTS:
        for suffix in ("", ".json"):
            app.router.add_route(method, f"/api/v2/{path}{suffix}", _guarded(name, scope, handler))


async def fire(
    state: StandInState, session: ClientSession, ticket_id: str, comment: Mapping[str, object]
) -> None:
    """Notify the webhooks of all triggers that a new comment meets, as one invocation each."""
    if not state.rules.sees(ticket_id):
        return
    for trigger in list(state.rules.triggers.values()):
        if not (trigger.active and _meets(state, trigger, ticket_id, comment)):
            continue
        for webhook_id, body in trigger.notifies:
            webhook = state.rules.webhooks.get(webhook_id)
            if webhook is None or webhook.status != "active":
                continue
            rendered = _render(state, body, ticket_id)
            if state.rules.withholds_next():
                state.rules.withheld.append((ticket_id, int(str(comment["id"]))))
            else:
                await _invoke(state.rules, session, webhook, rendered)


async def _invoke(rules: RuleState, session: ClientSession, webhook: StoredWebhook, body: str) -> None:
    """Post a rendered body, repeated as Zendesk repeats, and record the invocation."""
    headers = {**sign_headers(body.encode(), webhook.secret), WEBHOOK_ID: webhook.id}
    try:
        answer = await send(session, webhook.endpoint, body.encode(), headers, retries=True)
    except (ClientError, TimeoutError, OSError):
        answer = WebhookResponse(0, {}, b"", 1)
    rules.invocations.append(
        Invocation(headers[INVOCATION_ID], webhook.id, datetime.now(UTC), answer, body, headers)
    )


def _meets(
    state: StandInState, trigger: StoredTrigger, ticket_id: str, comment: Mapping[str, object]
) -> bool:
    ticket = state.tickets[ticket_id]

    def holds(condition: Mapping[str, object]) -> bool:
        value = str(condition.get("value"))
        match condition.get("field"):
            case "comment_is_public":
                return value == "not_relevant" or value == str(comment["public"]).lower()
            case "current_via_id":
                found = _via_id(comment["via"])
            case "via_id":
                found = _via_id(ticket["via"])
            case _:
                return False
        return (found == value) is (condition.get("operator") == "is")

    every, some = trigger.every, trigger.some
    return all(map(holds, every)) and (not some or any(map(holds, some)))


def _via_id(via: object) -> str:
    match via:
        case {"source": {"rel": "follow_up"}}:
            return "27"
        case {"channel": str() | int() as channel}:
            return _VIA.get(channel, "0")
        case _:
            return "0"


def _render(state: StandInState, body: str, ticket_id: str) -> str:
    """Replace the placeholders; unknown ones become nothing. `latest_comment` is the latest one now."""
    ticket, comments = state.tickets[ticket_id], state.comments[ticket_id]
    public = [comment for comment in comments if comment["public"]]
    requester = state.users.get(int(str(ticket["requester_id"])), {})
    values = {
        "ticket.id": ticket["id"],
        "ticket.title": ticket["subject"],
        "ticket.latest_comment.id": comments[-1]["id"],
        "ticket.latest_public_comment.id": public[-1]["id"] if public else "",
        "ticket.updated_at_with_timestamp": ticket["updated_at"],
        "ticket.requester.email": requester.get("email", ""),
    }
    return _PLACEHOLDER.sub(lambda found: str(values.get(found[1], "")), body)


# ── access


def _guarded(name: str, scope: str, handler: Handler) -> Handler:
    """Check the credentials, their scope and the role of their user, and apply the next scripted fault."""

    async def guarded(request: web.Request) -> web.Response:
        state = request.app[STATE]
        state.calls[name] += 1
        if not signed_in(request):
            return unauthenticated()
        if (fault := state.rule_faults.get(name)) and (scripted := await answer_of(fault)):
            return scripted
        if scope and (state.users[AGENT_ID]["role"] != "admin" or not _has_scope(request, scope)):
            described = f"You do not have access to this page. Please contact the account owner. {scope}"
            return _refuse(403, "Forbidden", described)
        return await handler(request)

    return guarded


def _has_scope(request: web.Request, scope: str) -> bool:
    """Tell whether an access token has a scope, such as `webhooks:write`; other credentials have all."""
    given = request.app[STATE].rules.scopes.get(bearer(request))
    return given is None or bool({scope, scope.partition(":")[2]} & {*given.split()})


async def _current_token(request: web.Request) -> web.Response:
    given = request.app[STATE].rules.scopes.get(bearer(request))
    if given is None:
        return _refuse(404, "RecordNotFound", "Not found")
    return web.json_response({"token": {"id": 1, "scopes": given.split(), "expires_at": None}})


# ── webhooks


async def _list_webhooks(request: web.Request) -> web.Response:
    listed = [_shown(webhook) for webhook in request.app[STATE].rules.webhooks.values()]
    return web.json_response({"webhooks": listed, "meta": {"has_more": False}, "links": {"next": None}})


async def _make_webhook(request: web.Request) -> web.Response:
    given = (await request.json())["webhook"]
    needed = ("name", "endpoint", "http_method", "request_format", "status")
    if missing := [name for name in needed if not given.get(name)]:
        return _refuse(422, "RecordInvalid", f"{missing[0]} is missing")
    number = "01" + "".join(secrets.choice(_ULID) for _ in range(24))
    webhook = StoredWebhook(number, secrets.token_urlsafe(32), dict(given))
    request.app[STATE].rules.webhooks[number] = webhook
    return web.json_response({"webhook": _shown(webhook)}, status=201)


async def _show_webhook(request: web.Request) -> web.Response:
    webhook = _webhook(request)
    return web.json_response({"webhook": _shown(webhook)}) if webhook else _not_found()


async def _change_webhook(request: web.Request) -> web.Response:
    webhook = _webhook(request)
    if webhook is None:
        return _not_found()
    webhook.fields.update((await request.json())["webhook"])
    return web.Response(status=204)


async def _delete_webhook(request: web.Request) -> web.Response:
    """Delete a webhook that no active trigger uses."""
    rules, webhook = request.app[STATE].rules, _webhook(request)
    if webhook is None:
        return _not_found()
    if any(trigger.active and trigger.uses(webhook.id) for trigger in rules.triggers.values()):
        return _refuse(422, "RecordInvalid", "The webhook is in use by an active trigger")
    del rules.webhooks[webhook.id]
    return web.Response(status=204)


async def _secret(request: web.Request) -> web.Response:
    webhook = _webhook(request)
    if webhook is None:
        return _not_found()
    if request.method == "POST":
        webhook.secret = secrets.token_urlsafe(32)
    return web.json_response({"signing_secret": {"algorithm": "SHA256", "secret": webhook.secret}})


async def _test(request: web.Request) -> web.Response:
    """Post a payload to an endpoint, signed with the secret of a webhook, or with the public one."""
    asked = (await request.json())["request"]
    webhook = request.app[STATE].rules.webhooks.get(request.query.get("webhook_id", ""))
    body = asked["payload"].encode()
    headers = sign_headers(body, webhook.secret if webhook else PUBLIC_TEST_SECRET)
    if webhook:
        headers[WEBHOOK_ID] = webhook.id
    try:
        async with ClientSession() as session:
            answer = await send(session, asked["endpoint"], body, headers)
    except (ClientError, TimeoutError, OSError):
        return web.json_response({"response": {"status": 0, "headers": [], "payload": ""}})
    listed = [{"key": name, "value": value} for name, value in answer.headers.items()]
    payload = answer.body.decode(errors="replace")
    return web.json_response({"response": {"status": answer.status, "headers": listed, "payload": payload}})


async def _invocations(request: web.Request) -> web.Response:
    if _webhook(request) is None:
        return _not_found()
    found = [
        {
            "id": one.id,
            "latest_completed_at": timestamp(one.completed_at),
            "status": one.status,
            "status_code": one.answer.status,
        }
        for one in request.app[STATE].rules.invocations
        if one.webhook_id == request.match_info["id"]
    ]
    if request.query.get("sort") == "-latest_completed_at":
        found.reverse()
    return web.json_response({"invocations": found[:100], "meta": {"has_more": len(found) > 100}})


async def _attempts(request: web.Request) -> web.Response:
    known = {one.id: one for one in request.app[STATE].rules.invocations}
    one = known.get(request.match_info["invocation"])
    if one is None:
        return _not_found()
    sent = [{"key": name, "value": value} for name, value in one.headers.items()]
    attempt = {
        "id": f"{one.id}-1",
        "invocation_id": one.id,
        "status": one.status,
        "status_code": one.answer.status,
        "request": {"headers": sent, "payload": one.body},
        "response": {"headers": [], "payload": one.answer.body.decode(errors="replace")},
        "completed_at": timestamp(one.completed_at),
    }
    return web.json_response({"attempts": [attempt]})


def _webhook(request: web.Request) -> StoredWebhook | None:
    return request.app[STATE].rules.webhooks.get(request.match_info["id"])


def _shown(webhook: StoredWebhook) -> Json:
    return {"created_by": "-1", "custom_headers": None, **webhook.fields, "id": webhook.id}


# ── triggers


async def _list_triggers(request: web.Request) -> web.Response:
    listed = [trigger.shown() for trigger in request.app[STATE].rules.triggers.values()]
    if request.path.removesuffix(".json").endswith("/active"):
        listed = [each for each in listed if each["active"]]
    return web.json_response({"triggers": listed, "meta": {"has_more": False}, "links": {"next": None}})


async def _make_trigger(request: web.Request) -> web.Response:
    state = request.app[STATE]
    trigger = StoredTrigger(str(next(state.ids)), (await request.json())["trigger"])
    if unknown := [each for each, _ in trigger.notifies if each not in state.rules.webhooks]:
        return _refuse(422, "RecordInvalid", f"The webhook {unknown[0]} does not exist")
    state.rules.triggers[trigger.id] = trigger
    return web.json_response({"trigger": trigger.shown()}, status=201)


async def _show_trigger(request: web.Request) -> web.Response:
    trigger = request.app[STATE].rules.triggers.get(request.match_info["id"])
    return web.json_response({"trigger": trigger.shown()}) if trigger else _not_found()


async def _change_trigger(request: web.Request) -> web.Response:
    """Change fields; conditions or actions that are sent replace both, and the missing one becomes empty."""
    trigger = request.app[STATE].rules.triggers.get(request.match_info["id"])
    if trigger is None:
        return _not_found()
    given = (await request.json())["trigger"]
    if {"conditions", "actions"} & {*given}:
        given = {"conditions": {"all": [], "any": []}, "actions": [], **given}
    trigger.fields.update(given)
    return web.json_response({"trigger": trigger.shown()})


async def _delete_trigger(request: web.Request) -> web.Response:
    found = request.app[STATE].rules.triggers.pop(request.match_info["id"], None)
    return web.Response(status=204) if found else _not_found()


async def _definitions(request: web.Request) -> web.Response:
    rules = request.app[STATE].rules
    vias = [{"value": value, "title": title, "enabled": True} for value, title in rules.update_vias.items()]
    condition = {
        "title": "Update via",
        "subject": "current_via_id",
        "type": "list",
        "operators": [{"value": "is", "title": "Is"}, {"value": "is_not", "title": "Is not"}],
        "values": vias,
    }
    definitions = {"conditions_all": [condition], "conditions_any": [condition], "actions": []}
    return web.json_response({"definitions": definitions})


def _refuse(status: int, error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "description": description}, status=status)


def _not_found() -> web.Response:
    return _refuse(404, "RecordNotFound", "Not found")


_ENDPOINTS: tuple[tuple[str, str, str, str, Handler], ...] = (
    ("GET", "oauth/tokens/current", "oauth/tokens/current", "", _current_token),
    ("GET", "webhooks", "webhooks", "webhooks:read", _list_webhooks),
    ("POST", "webhooks", "make webhook", "webhooks:write", _make_webhook),
    ("POST", "webhooks/test", "test webhook", "webhooks:write", _test),
    ("GET", "webhooks/{id}", "webhook", "webhooks:read", _show_webhook),
    ("PATCH", "webhooks/{id}", "change webhook", "webhooks:write", _change_webhook),
    ("PUT", "webhooks/{id}", "change webhook", "webhooks:write", _change_webhook),
    ("DELETE", "webhooks/{id}", "delete webhook", "webhooks:write", _delete_webhook),
    ("GET", "webhooks/{id}/signing_secret", "signing secret", "webhooks:read", _secret),
    ("POST", "webhooks/{id}/signing_secret", "reset signing secret", "webhooks:write", _secret),
    ("GET", "webhooks/{id}/invocations", "invocations", "webhooks:read", _invocations),
    ("GET", "webhooks/{id}/invocations/{invocation}/attempts", "attempts", "webhooks:read", _attempts),
    ("GET", "triggers", "triggers", "triggers:read", _list_triggers),
    ("GET", "triggers/active", "triggers", "triggers:read", _list_triggers),
    ("GET", "triggers/definitions", "definitions", "triggers:read", _definitions),
    ("POST", "triggers", "make trigger", "triggers:write", _make_trigger),
    ("GET", r"triggers/{id:\d+}", "trigger", "triggers:read", _show_trigger),
    ("PUT", r"triggers/{id:\d+}", "change trigger", "triggers:write", _change_trigger),
    ("DELETE", r"triggers/{id:\d+}", "delete trigger", "triggers:write", _delete_trigger),
)
