"""Examples of bodies and answers for the API's description: instances of the models that read and write them.

`VALUES` has values of fields; the models say which fields there are, and compute others. So an example cannot have a
field that its model lacks, nor lack one that it has.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from hashlib import sha256
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, RootModel
from pydantic_core import to_jsonable_python

from service.error_guide import advice_on
from service.queries.erasures import ErasurePlanView
from service.queries.views import View
from service.queries.webhook_views import RequestView
from service.zendesk.mistakes import mistake_in
from service.zendesk.rules import BODY

Json = dict[str, Any]

_DAY = "2025-11-03"
_NOON = f"{_DAY}T12:00:00Z"
_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_REQUEST = RequestView.of(
    [], json.dumps(dict(zip(BODY, ("4711", "54509304133531", _NOON), strict=True))).encode()
)
_CORRECTED = '{"ticket_id": 4711, "subject": "Invoice \\"V-4711\\""}'
_BROKEN = RequestView.of([], b'{"ticket_id": 4711, "subject": "Invoice "V-4711""}')
_MISTAKE = mistake_in(_BROKEN.body.encode())

# A key is a model with a field, which models that inherit the field use, too, or the name of a field alone. A field without
# a value here is null or empty if its type allows that. Otherwise it has the first or the smallest value of its type.
VALUES: Mapping[str, object] = MappingProxyType(
    {
        # E-mails.
        **dict.fromkeys(("id", "email_id", "quarantine_id", "finding_id", "bulk_retry_id", "receipt_id"), 1),
        **dict.fromkeys(("erasure_id", "count", "emails", "files", "size", "total", "attempt_number"), 1),
        **dict.fromkeys(("zendesk_ticket_id", "ticket", "ticket_id"), "4711"),
        **dict.fromkeys(("from_email", "PersonView.address", "sender"), "anna@customer.example"),
        **dict.fromkeys(("from_name", "PersonView.name"), "Anna Miller"),
        "subject": "Contract V-4711",
        "processing_status": "completed",
        "sync_status": "synced",
        "origin": "webhook",
        "started_at": f"{_DAY}T12:00:01Z",
        **dict.fromkeys(("completed_at", "finished_at", "ended_at", "stored_at"), f"{_DAY}T12:00:03Z"),
        **dict.fromkeys(("due_at", "sync_due_at", "queued_at", "sent_at", "fetched_at"), _NOON),
        "sync_begun_at": f"{_DAY}T12:00:03Z",
        "synced_at": f"{_DAY}T12:00:04Z",
        "sync_attempt_number": 1,
                "idempotency_key": "01K93RV2J8GQ5C5PB4TZ4EQ0YD",
        "invocation_id": "01K93RV2J8GQ5C5PB4TZ4EQ0YD",
        "account_id": "21978514",
        "comment_id": "54509304133531",
        "looked_up_at": f"{_DAY}T12:00:02Z",
        "AttachmentView.position": 0,
        "AttachmentView.status": "stored",
        "file_name": "Contract V-4711.pdf",
        **dict.fromkeys(("declared_type", "detected_type"), "application/pdf"),
        **dict.fromkeys(("declared_size", "AttachmentView.size"), 48_213),
        "sha256": _HASH,
        "object_key": f"sha256/{_HASH[:2]}/{_HASH[2:]}",
        "source_url": "https://acme.zendesk.com/attachments/token/Zx81/?name=Contract+V-4711.pdf",
        "zendesk_id": "498483",
        "inline": False,
        "malware": "malware_not_found",
        "MatchView.where": "subject",
        "MatchView.before": "Contract ",
        "match": "V-4711",
        "MatchView.after": "",
        "MessageView.source": "zendesk",
        "direction": "inbound",
        "public": True,
        "message_id": "<4711@mail.customer.example>",
        "MessageView.text": "Here is the signed contract.",
        "text_size": 28,
        **dict.fromkeys(("has_html", "has_original"), True),
        "MessageView.cc": [],
        "AttemptView.number": 1,
        "outcome": "completed",
        "worker": "worker.1",
        "AnnouncementView.size": 93,
        "MessageHolderView.size": 2_048,
        # Original webhooks.
        "headers": [["Content-Type", "application/json"]],
        "body": _REQUEST.body,
        "body_base64": _REQUEST.body_base64,
        "QuarantineDetail.body": _BROKEN.body,
        "QuarantineDetail.body_base64": _BROKEN.body_base64,
        "QuarantineView.size": len(_BROKEN.body),
        "QuarantineView.email_id": None,
        "QuarantineView.error_code": "not_json",
        "QuarantineView.error": "The body is not JSON: Expecting ',' delimiter: line 1 column 42 (char 41).",
        "IgnoredView.email_id": None,
        "IgnoredView.size": 512,
        "event_type": "zen:event-type:ticket.status_changed",
        "Invocation.root": json.loads(_REQUEST.body),
        # Failures, retries and actions.
        **dict.fromkeys(("actor", "by", "set_by"), "Mara (dashboard)"),
        **dict.fromkeys(("reason", "DismissRequest.reason"), "The customer sent it again as V-4712"),
        "ActionView.action": "retry",
        **dict.fromkeys(
            ("ActionView.quarantine_id", "ActionView.bulk_retry_id", "ActionView.finding_id"), None
        ),
        **dict.fromkeys(("ActionView.subject", "ActionView.reason"), None),
        "FailureGroup.error_code": "connection_failed",
        "FailureGroup.host": "acme.zendesk.com",
        "example_id": 1,
        "example_error": "acme.zendesk.com does not answer.",
        "last_day": 1,
        "BulkRetryRequest.filter": {"status": "failed", "error_code": "connection_failed"},
        "BulkRetryView.filter": {"status": "failed", "error_code": "connection_failed"},
        "BulkRetryView.reason": None,
        "BulkRetryView.status": "done",
        "BulkRetryView.reached": _NOON,
        "settled_at": f"{_DAY}T12:00:09Z",
        "per_second": 20,
        **dict.fromkeys(("planned", "retried", "BulkRetryView.repaired"), 1),
        # Custody.
        **dict.fromkeys(("HoldRequest.name", "HoldView.name"), "lawsuit"),
        **dict.fromkeys(("HoldView.reason", "HoldRequest.reason"), "Lawsuit with Customer Ltd"),
        "ReleaseRequest.reason": "The lawsuit has ended",
        "HoldRequest.filter": {"sender": "anna@customer.example"},
        "HoldView.filter": {"sender": "anna@customer.example"},
        "matching": 1,
        **dict.fromkeys(("RuleView.name", "RuleRequest.name"), "invoices"),
        **dict.fromkeys(("keep_days", "floor_days"), 3_650),
        "RuleView.filter": {"sender": "billing@customer.example"},
        "RuleRequest.filter": {"sender": "billing@customer.example"},
        "RetentionView.version": _HASH,
        "RetentionRequest.version": _HASH,
        "saved": True,
        "complete": True,
        "examined": 20,
        "without_rule": 19,
        "ErasureRequest.sender": "anna@customer.example",
        **dict.fromkeys(("ErasureRequest.reason", "ErasureView.reason"), "Request under GDPR, article 17"),
        "ErasureAnswer.plan": None,
        **dict.fromkeys(("ErasureView.status", "ReceiptView.status"), "done"),
        "ReceiptView.kind": "erasure",
        "ReceiptView.rules": None,
        "ReceiptView.reason": "Request under GDPR, article 17",
        **dict.fromkeys(("objects", "objects_removed"), 3),
        "bytes": 48_213,
        **dict.fromkeys(("digest", "root", "public_key"), _HASH),
        "log_id": _HASH[:32],
        "HeadView.object_key": f"heads/{_HASH[:32]}/{1:012}.json",
        "HeadView.number": 1,
        "EvidenceView.began_at": _NOON,
        "EvidenceView.key": "setting",
        "VerificationView.findings": [],
        # The overview.
        "AlertView.cause": "failures",
        "AlertView.key": "connection_failed@acme.zendesk.com",
        "AlertView.summary": "E-mails fail with connection_failed at acme.zendesk.com",
        "AlertView.detail": "acme.zendesk.com does not answer.",
        "DeliveryView.news": "opened",
        "DeliveryView.channel": "mail",
        "DeliveryView.status": "sent",
        "DeliveryView.attempts": 1,
        "CheckView.name": "Postgres",
        "CheckView.ok": True,
        "CheckView.found": "answers in 2 ms",
        "CheckView.advice": "",
        "Stats.by_status": {"received": 0, "queued": 0, "processing": 0, "completed": 20, "failed": 0},
        "Stats.by_sync_status": {"pending": 0, "failed": 0},
        "Overview.verdict": "All 20 e-mails of the last 24 hours are stored. None needs attention. Nothing waiting.",
        "Overview.last_day": 20,
        "has_target": True,
        **dict.fromkeys(("completed", "received"), 20),
        **dict.fromkeys(("queue_p50", "queue_p95"), 0.1),
        **dict.fromkeys(("processing_p50", "processing_p95"), 0.4),
        "WorkerView.name": "worker.1",
        "WorkerView.pid": 4242,
        "seen_seconds_ago": 1.5,
        "WorkerView.jobs": 20,
        "WorkerView.version": "0.2.0",
        "is_hourly": True,
        "limit": 700,
        "budget": 350,
        "used": 12,
        "seconds_left": 41.0,
        "ReconciliationView.status": "done",
        "ReconciliationView.fix": "syncs",
        "ReconciliationView.targets": "mongodb",
        "ReconciliationView.part": 3,
        **dict.fromkeys(("documents", "ReconciliationView.emails"), 20),
        "ReconciliationView.counts": {"missing": 1},
        "ReconciliationView.repaired": {"missing": 1},
        "FindingView.key": "1",
        "FindingView.detail": {},
        "repair": "sync",
        "FindingView.repaired_at": f"{_DAY}T12:00:05Z",
        # What people write down.
        "AcknowledgementView.note": "I have asked the network team",
        "AcknowledgeRequest.note": "I have asked the network team",
        "GroupRequest.error_code": "connection_failed",
        "GroupRequest.host": "acme.zendesk.com",
        "saved_by": "Mara (dashboard)",
        "filter_id": 1,
        **dict.fromkeys(("SaveFilterRequest.name", "SavedFilterView.name"), "Contracts"),
        "SaveFilterRequest.filter": {"q": "contract"},
        "SavedFilterView.filter": {"q": "contract"},
        "CorrectRequest.body": _CORRECTED,
        "CorrectionView.body": _CORRECTED,
        "CorrectionView.sha256": sha256(_CORRECTED.encode()).hexdigest(),
        "CorrectionView.original_sha256": sha256(_BROKEN.body.encode()).hexdigest(),
        "QuarantineDetail.mistake": _MISTAKE and asdict(_MISTAKE),
        "GuessView.ticket": "4711",
        "GuessView.subject": 'Invoice "V-4711"',
        "BulkWebhookRequest.action": "dismiss",
        "BulkWebhookRequest.reason": "The template was repaired, and Zendesk sent them again",
        "BulkWebhookRequest.filter": {"error_code": "not_json"},
        "Acknowledged.acknowledged": True,
        "Overview.evidence": "Verified 2 h ago: nothing was changed.",
        # Logins and changes.
        **dict.fromkeys(("LoginRequest.name", "LoginView.name"), "mara-laptop"),
        **dict.fromkeys(("LoginBegun.secret", "PollRequest.secret"), "holdfast_…"),
        "user_code": "BCDFGHJK",
        "LoginBegun.page": "/login",
        "expires_in": 600,
        "interval": 2,
        "LoginView.role": "operator",
        "LoginView.confirmed_by": "Mara",
        "LoginView.ends_at": "2026-02-01T12:00:00Z",
        "ChangesRequest.filter": {"status": "failed"},
        "ArrivalPage.refused": None,
        "ArrivalView.reason": None,
        # The ledger.
        **dict.fromkeys(("CompletenessView.sentence", "Ledger.verdict"), "Every e-mail that Zendesk has since 1 November is kept. Checked just now."),
        "is_on": True,
        **dict.fromkeys(("complete_since", "CompletenessView.since", "Ledger.since"), "2025-11-01T00:00:00Z"),
        **dict.fromkeys(("checked_at", "watermark", "searched_until"), _NOON),
        "account": "acme.zendesk.com",
        **dict.fromkeys(("SourceView.proof", "Ledger.emails"), None),
        "SourceView.backfills": [],
        "SourceView.refused": [],
        "ConnectionView.drift": [],
        **dict.fromkeys(("in_zendesk", "kept"), 20),
        "searched": "whole",
        "unlisted": 0,
        "webhook_id": "01K93R9QJ4V0W9T7ZC2Q6YQ3RM",
        "trigger_id": "31546734193051",
        # The webhook and the health.
        "Receipt.email_id": 1,
        "Health.version": "0.2.0",
        "Health.commit": "3f0c1d2e4b5a",
        "Probe.ok": True,
        "Probe.milliseconds": 1.2,
    }
)  # fmt: skip

# Answers with another status than the usual one.
_OTHERS: Mapping[tuple[str, int], Mapping[str, object]] = MappingProxyType(
    {
        ("BulkRetryReceipt", 200): {"bulk_retry_id": None},
        ("ErasureAnswer", 200): {"erasure_id": None, "plan": ErasurePlanView},
        ("Readiness", 503): {
            "status": "not_ready",
            "checks": {"database": {"ok": False, "error": "database_unavailable"}},
        },
    }
)
_SMALLEST: Mapping[object, object] = MappingProxyType(
    {bool: False, int: 0, float: 0.0, str: "", datetime: _NOON, date: _DAY}
)


def example(model: type[BaseModel], status: int = 0, prefix: str = "") -> Any:  # noqa: ANN401 any JSON
    """Return an example of a body, or of an answer with a status, below a path prefix."""
    inputs = _inputs(model, _OTHERS.get((model.__name__, status), {}))
    made = model.model_validate_json(json.dumps(inputs))
    # A view shows all of its fields, and other models what is set.
    shown = made.model_dump(context={"prefix": prefix}, exclude_unset=not isinstance(made, View))
    return to_jsonable_python(shown)


def problem_example(status: int, code: str) -> Json:
    """Return an example of an error; its `detail` is what the guide says of the code."""
    advice = advice_on(code)
    meaning = advice.meaning if advice else ""
    detail = meaning.partition("As an answer of Holdfast: ")[2] or meaning
    title, detail = HTTPStatus(status).phrase, detail[:1].upper() + detail[1:]
    return {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail}


def _inputs(model: type[BaseModel], given: Mapping[str, object] = MappingProxyType({})) -> Any:  # noqa: ANN401 any JSON
    """Return JSON from which the model is made."""
    inputs: Json = {}
    for name, field in model.model_fields.items():
        keys = (f"{each.__name__}.{name}" for each in model.__mro__)
        key = next((key for key in keys if key in VALUES), None)
        if name in given:
            value = given[name]
            inputs[name] = _inputs(value) if isinstance(value, type) else value
        elif key:
            inputs[name] = VALUES[key]
        elif issubclass(model, View) or field.is_required():
            inputs[name] = _typical(name, field.annotation)
    return inputs["root"] if issubclass(model, RootModel) else inputs


def _typical(name: str, kind: Any) -> Any:  # noqa: ANN401 a type, and any JSON
    """Return a value of a type for a field of this name."""
    origin, kinds = get_origin(kind), get_args(kind)
    models = [each for each in (kind, *kinds) if isinstance(each, type) and issubclass(each, BaseModel)]
    value = _inputs(models[0]) if models else VALUES.get(name)
    if origin is Annotated:
        value = _typical(name, kinds[0])
    elif origin is Literal:
        value = value if value in kinds else kinds[0]
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        value = {_typical("", kinds[0]): value} if models else {}
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        value = [value] if models else []
    elif value is None and kinds and type(None) not in kinds:  # a union
        value = _typical(name, kinds[0])
    elif origin is None and value is None:
        value = _SMALLEST.get(kind)
    return value
