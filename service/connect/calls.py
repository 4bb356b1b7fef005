"""The calls to Zendesk's API about webhooks and triggers."""

from collections.abc import Mapping, Sequence

from service.errors import Permanent, Transient
from service.zendesk.client import READ, TOKEN_PATH, Turn, ZendeskClient
from service.zendesk.invocations import ListedInvocation, read_invocations, read_sent_body
from service.zendesk.rules import Trigger, Webhook, read_offered, read_trigger, read_webhook

# The scopes of the access token that makes and changes webhooks and triggers.
WRITE_SCOPES = ("webhooks:write", "triggers:write")
CONNECT_SCOPE = " ".join((READ, *WRITE_SCOPES))

_PAGE = {"page[size]": "100"}
# Accounts have few webhooks, and some hundred triggers.
_MOST_WEBHOOK_PAGES = 5
_MOST_TRIGGER_PAGES = 50

_WEBHOOKS = "/api/v2/webhooks"
_TRIGGERS = "/api/v2/triggers"

Json = dict[str, object]


async def list_webhooks(client: ZendeskClient) -> Sequence[Webhook]:
    """Return all webhooks; those that cannot be parsed are skipped."""
    found, _ = await list_webhooks_if_all(client)
    return found


async def list_webhooks_if_all(
    client: ZendeskClient, *, turn: Turn = Turn.IN_ORDER
) -> tuple[Sequence[Webhook], bool]:
    """Return the webhooks, and whether these are all for certain: none was skipped, and the last page says it is."""
    found, are_all, is_last = [], True, False
    async for page in client.pages(_WEBHOOKS, _MOST_WEBHOOK_PAGES, _PAGE, turn=turn):
        read = [read_webhook(each) for each in _listed(page, "webhooks")]
        found += [webhook for webhook in read if webhook]
        are_all = are_all and all(read)
        match page.get("meta"):
            case {"has_more": bool(has_more)}:
                is_last = not has_more
            case _:
                is_last = False
    return found, are_all and is_last


async def list_triggers(client: ZendeskClient) -> Sequence[Trigger]:
    """Return all triggers; those that cannot be parsed are skipped."""
    found = []
    async for page in client.pages(_TRIGGERS, _MOST_TRIGGER_PAGES, _PAGE):
        found += [trigger for each in _listed(page, "triggers") if (trigger := read_trigger(each))]
    return found


async def show_webhook(client: ZendeskClient, webhook_id: str) -> Webhook | None:
    """Return a webhook; None if it is gone."""
    answer = await _unless_gone(client, f"{_WEBHOOKS}/{webhook_id}")
    return None if answer is None else _webhook(answer)


async def show_trigger(client: ZendeskClient, trigger_id: str) -> Trigger | None:
    """Return a trigger; None if it is gone."""
    answer = await _unless_gone(client, f"{_TRIGGERS}/{trigger_id}")
    return None if answer is None else _trigger(answer)


async def show_offered_channels(client: ZendeskClient) -> frozenset[str] | None:
    """Return the values that the account offers for *Update via*; None where it does not tell."""
    try:
        return read_offered(await client.get(f"{_TRIGGERS}/definitions"), "current_via_id")
    except Permanent:
        return None


async def show_secret(client: ZendeskClient, webhook_id: str) -> object:
    """Return the signing secret of a webhook as the answer has it; intake may wait for it."""
    answer = await client.get(f"{_WEBHOOKS}/{webhook_id}/signing_secret", turn=Turn.AT_ONCE)
    secret = answer.get("signing_secret")
    return secret.get("secret") if isinstance(secret, dict) else None


async def show_scopes(client: ZendeskClient) -> Sequence[str] | None:
    """Return the scopes of the access token; None where Zendesk does not tell.

    Raises Permanent("credentials_refused") if there is no token with the scopes of the client.
    """
    try:
        answer = await client.get(TOKEN_PATH)
    except Permanent as exc:
        if exc.code == "credentials_refused":  # there is no token
            raise
        return None
    match answer.get("token"):
        case {"scopes": [*scopes]}:
            return [str(scope)[:100] for scope in scopes[:100]]
        case _:
            return None


async def list_invocations(client: ZendeskClient, webhook_id: str) -> Sequence[ListedInvocation]:
    """Return the newest invocations of a webhook."""
    newest_first = {**_PAGE, "sort": "-latest_completed_at"}
    return read_invocations(await client.get(f"{_WEBHOOKS}/{webhook_id}/invocations", newest_first))


async def show_sent_body(client: ZendeskClient, webhook_id: str, invocation_id: str) -> str | None:
    """Return the body that an invocation sent."""
    answer = await client.get(f"{_WEBHOOKS}/{webhook_id}/invocations/{invocation_id}/attempts")
    return read_sent_body(answer)


async def make_webhook(client: ZendeskClient, request: Json) -> Webhook:
    return _webhook(await client.write("POST", _WEBHOOKS, request))


async def change_webhook(client: ZendeskClient, webhook_id: str, request: Json) -> None:
    await client.write("PATCH", f"{_WEBHOOKS}/{webhook_id}", request)


async def delete_webhook(client: ZendeskClient, webhook_id: str) -> None:
    await client.write("DELETE", f"{_WEBHOOKS}/{webhook_id}")


async def make_trigger(client: ZendeskClient, request: Json) -> Trigger:
    return _trigger(await client.write("POST", _TRIGGERS, request))


async def change_trigger(client: ZendeskClient, trigger_id: str, request: Json) -> None:
    await client.write("PUT", f"{_TRIGGERS}/{trigger_id}", request)


async def delete_trigger(client: ZendeskClient, trigger_id: str) -> None:
    await client.write("DELETE", f"{_TRIGGERS}/{trigger_id}")


async def test_webhook(client: ZendeskClient, webhook: Webhook, body: str) -> tuple[int, str]:
    """Have Zendesk send a signed request to a webhook's address; return the status and the body of the answer."""
    request: Json = {
        "endpoint": webhook.endpoint,
        "http_method": "POST",
        "request_format": "json",
        "payload": body,
    }
    answer = await client.write("POST", f"{_WEBHOOKS}/test", {"request": request}, {"webhook_id": webhook.id})
    match answer.get("response"):
        case {"status": int(status), "payload": payload}:
            return status, str(payload or "")[:2000]
        case {"status": int(status)}:
            return status, ""
        case _:
            raise Transient("bad_response", "Zendesk's test of the webhook has no result")


async def _unless_gone(client: ZendeskClient, path: str) -> Json | None:
    try:
        return await client.get(path)
    except Permanent as exc:
        if exc.code in {"not_found", "attachment_gone"}:  # 404 and 410
            return None
        raise


def _listed(page: Mapping[str, object], name: str) -> Sequence[object]:
    listed = page.get(name)
    if not isinstance(listed, list):
        raise Transient("bad_response", f"Zendesk's answer has no list of {name}")
    return listed


def _webhook(answer: Mapping[str, object]) -> Webhook:
    webhook = read_webhook(answer.get("webhook"))
    if webhook is None:
        raise Transient("bad_response", "Zendesk's answer is no webhook")
    return webhook


def _trigger(answer: Mapping[str, object]) -> Trigger:
    trigger = read_trigger(answer.get("trigger"))
    if trigger is None:
        raise Transient("bad_response", "Zendesk's answer is no trigger that can be parsed")
    return trigger
