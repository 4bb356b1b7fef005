"""Calls that change something at Zendesk: bounded, within the budget, and never repeated blindly."""

import pytest

from service.config.settings import Settings
from service.errors import HoldfastError, Permanent
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources, open_resources
from service.zendesk.writes import MOST_ANSWER_BYTES, MOST_REQUEST_BYTES

WEBHOOK: dict[str, object] = {
    "webhook": {
        "name": "a",
        "endpoint": "https://h.example/x",
        "http_method": "POST",
        "request_format": "json",
        "status": "active",
    }
}
WIDE = "read webhooks:write"


async def test_a_write_needs_its_scope(res: Resources, zendesk: Zendesk) -> None:
    with pytest.raises(Permanent) as caught:
        await res.zendesk.write("POST", "/api/v2/webhooks", WEBHOOK)
    async with res.zendesk.with_scope(WIDE) as client:
        made = await client.write("POST", "/api/v2/webhooks", WEBHOOK)

    assert caught.value.code == "forbidden"
    assert list(made) == ["webhook"]
    assert sorted(zendesk.state.rules.scopes.values()) == ["read", WIDE]


async def test_an_answer_without_a_body_is_an_empty_object(res: Resources, zendesk: Zendesk) -> None:
    async with res.zendesk.with_scope(WIDE) as client:
        await client.write("POST", "/api/v2/webhooks", WEBHOOK)
        (webhook,) = zendesk.state.rules.webhooks
        changed = await client.write("PATCH", f"/api/v2/webhooks/{webhook}", {"webhook": {"name": "b"}})

    assert changed == {}
    assert zendesk.state.rules.webhooks[webhook].fields["name"] == "b"


async def test_an_ended_token_is_replaced_once(res: Resources, zendesk: Zendesk) -> None:
    """Nothing was written with a token that was refused."""
    async with res.zendesk.with_scope(WIDE) as client:
        await client.write("POST", "/api/v2/webhooks", WEBHOOK)
        zendesk.state.access_tokens.clear()
        await client.write("POST", "/api/v2/webhooks", WEBHOOK)

    assert len(zendesk.state.rules.webhooks) == 2


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=200, body=b"<html>"), "bad_response"),
        (Fault(status=200, body=b"[]"), "bad_response"),
        (Fault(status=200, body=b"{" * 5000), "bad_response"),
        (Fault(status=200, body=b"x" * (MOST_ANSWER_BYTES + 1)), "too_large"),
        (Fault(status=422, body=b"x" * (MOST_ANSWER_BYTES + 1)), "too_large"),
        (Fault(status=422, body=b'{"error": "RecordInvalid", "details": {"a": ["\\u202e\\u0000"]}}'), "invalid_record"),
        (Fault(status=422, body=b"\xff\xfe"), "invalid_record"),
        (Fault(status=302, headers={"Location": "http://127.0.0.1:1/"}), "unexpected_status"),
        (Fault(status=404), "not_found"),
        (Fault(status=409), "not_ready"),
        (Fault(status=429, headers={"Retry-After": "1"}), "rate_limited"),
        (Fault(status=502), "server_error"),
    ],
)  # fmt: skip
async def test_any_answer_is_a_code_and_one_request(
    res: Resources, zendesk: Zendesk, fault: Fault, code: str
) -> None:
    zendesk.state.rule_faults["make webhook"] = fault
    async with res.zendesk.with_scope(WIDE) as client:
        try:
            await client.write("POST", "/api/v2/webhooks", WEBHOOK)
            found = "made"
        except HoldfastError as exc:
            found, said = exc.code, exc.message
            said.encode()
            assert said.isprintable()

    assert found == code
    assert zendesk.state.calls["make webhook"] == 1


async def test_a_429_pauses_the_calls_of_all(res: Resources, zendesk: Zendesk, settings: Settings) -> None:
    zendesk.state.rule_faults["make webhook"] = Fault(status=429, headers={"Retry-After": "30"})
    async with res.zendesk.with_scope(WIDE) as client:
        with pytest.raises(HoldfastError):
            await client.write("POST", "/api/v2/webhooks", WEBHOOK)
    before = zendesk.state.api_calls
    async with open_resources(settings) as other:
        with pytest.raises(HoldfastError) as caught:
            await other.zendesk.get("/api/v2/webhooks")

    assert caught.value.code == "rate_limited"
    assert zendesk.state.api_calls == before


async def test_a_request_that_is_too_large_is_not_sent(res: Resources, zendesk: Zendesk) -> None:
    with pytest.raises(Permanent) as caught:
        await res.zendesk.write("POST", "/api/v2/webhooks", {"x": "y" * MOST_REQUEST_BYTES})

    assert caught.value.code == "too_large"
    assert zendesk.state.api_calls == 0


async def test_credentials_are_shown_to_the_api_of_the_account_alone(
    res: Resources, zendesk: Zendesk
) -> None:
    with pytest.raises(Permanent) as caught:
        await res.zendesk.write("POST", "/stand-in/emails", {})

    assert caught.value.code == "address_refused"
    assert zendesk.state.account_authorizations == []
