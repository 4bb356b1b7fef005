"""The audit of a drill finds a connection that was not put back, and e-mails that only it would have announced."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from service.local.drill.connection import CHANGES, Connection, audit_connection
from service.local.drill.verdict import AuditResult
from service.local.zendesk.rule_state import RuleState, StoredTrigger, StoredWebhook
from service.zendesk.rules import (
    read_trigger,
    read_webhook,
    trigger_drift,
    trigger_json,
    wanted_clauses,
    webhook_drift,
)

ENDPOINT = "https://holdfast.acme.example/webhooks/zendesk"
CLAUSES, _ = wanted_clauses("mail", None)


def tables(
    status: str = "completed", *, drift: Sequence[str] = ()
) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    email = {
        "id": 1,
        "zendesk_ticket_id": "95000",
        "comment_id": "7",
        "processing_status": status,
        "raw_body": None,
    }
    other = {**email, "id": 2, "zendesk_ticket_id": "100000", "processing_status": "failed"}
    return {
        "incoming_emails": [email, other],
        "announcements": [],
        "connections": [{"drift": [{"code": code, "text": "It was changed."} for code in drift]}],
    }


def audited(rows: Mapping[str, Sequence[Mapping[str, Any]]], *, is_made: bool = True) -> AuditResult:
    result = AuditResult()
    nothing: Any = None  # an audit needs only the tickets
    made = Connection(nothing, nothing, 1, {"95000"}, is_made)
    audit_connection(result, made, rows)
    return result


def test_a_connection_that_was_put_back_is_good() -> None:
    result = audited(tables(drift=["invocations_failed"]))

    assert result.good
    assert result.unheard == 1


@pytest.mark.parametrize("status", ["failed", "queued"])
def test_an_e_mail_of_a_changed_connection_has_to_be_completed(status: str) -> None:
    assert audited(tables(status)).lost == [f"comment 7 of ticket 95000 is {status}"]


def test_drift_that_is_left_breaks_the_promise() -> None:
    result = audited(tables(drift=["trigger_gone", "circuit_breaker"]))

    assert result.broken == ["the drift trigger_gone is still recorded"]


def test_a_connection_that_was_never_made_proves_nothing() -> None:
    assert audited(tables(), is_made=False).broken == ["the connection to Zendesk could not be made"]


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_the_drift_that_the_drill_waits_for(name: str) -> None:
    rules = RuleState()
    webhook = rules.webhooks["01A"] = StoredWebhook(
        "01A", "secret", {"endpoint": ENDPOINT, "status": "active"}
    )
    webhook.fields |= {"name": "Holdfast", "http_method": "POST", "request_format": "json"}
    trigger: Any = trigger_json("01A", CLAUSES, is_active=True)["trigger"]
    rules.triggers["1"] = StoredTrigger("1", trigger)
    change, code = CHANGES[name]

    def drift() -> list[str]:
        shown = [read_trigger(each.shown()) for each in rules.triggers.values()]
        at_trigger = trigger_drift(shown[0] if shown else None, "01A", CLAUSES)
        return [
            each.code
            for each in (*webhook_drift(read_webhook({**webhook.fields, "id": "01A"}), ENDPOINT), *at_trigger)
        ]

    before = drift()
    change(rules)

    assert before == []
    assert code in drift()
