"""Zendesk's webhook: check the headers, read the body, verify its signature, hand it to intake."""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, Field, RootModel
from structlog.contextvars import bind_contextvars, get_contextvars

from service import intake
from service.errors import HoldfastError, Rejected
from service.telemetry.exporters import Traces
from service.telemetry.metrics import LATE_WEBHOOKS, SIGNATURE_SKEW, WEBHOOKS
from service.web.bodies import overloaded, read_body
from service.web.handling.keys import RES
from service.web.handling.middleware import WEBHOOK_PATH, is_webhook
from service.web.handling.routes import Routes
from service.zendesk import signature
from service.zendesk.signature import Proof, Verified

# A refusal costs nearly as much CPU as an intake: slow down senders that repeat at once.
REFUSAL_SECONDS = 0.25
# Of all bodies whose signature is not verified yet, together.
MOST_READ_BYTES = 64 * 1024**2
_ID_FIELDS = {
    "accepted": "email_id",
    "duplicate": "email_id",
    "quarantined": "quarantine_id",
    "ignored": "ignored_id",
}

log = structlog.get_logger()
routes = Routes("Webhook")


class Invocation(RootModel[Mapping[str, object]]):
    """The JSON of the trigger's template, with `ticket_id` at least, or a Zendesk event."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ticket_id": "35436", "comment_id": "4711"}]})


class Receipt(BaseModel):
    """The result of the committed request."""

    status: Literal["accepted", "duplicate", "ignored", "quarantined"]
    email_id: int | None = Field(None, description="of an accepted or duplicate request")
    quarantine_id: int | None = Field(None, description="of a quarantined request")


@web.middleware
async def any_spelling(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Receive webhooks also at an address with doubled or trailing slashes."""
    is_misspelt = request.method == "POST" and request.path != WEBHOOK_PATH and is_webhook(request.path)
    return await receive(request) if is_misspelt else await handler(request)


@routes.post(
    WEBHOOK_PATH,
    is_open=True,
    is_signed=True,
    body=Invocation,
    answer=Receipt,
    errors={
        401: "The signature is missing or wrong, or its timestamp cannot be parsed.",
        413: "The body is too large.",
        503: "The request could not be committed: send it again.",
    },
)
async def receive(request: web.Request) -> web.Response:
    """Receive a Zendesk webhook."""
    # The answer is 200 once the request is committed, and only then.
    began, verified = time.monotonic(), None
    outcome, ids = "cancelled", {}
    if invocation := intake.invocation_of(request.headers):
        bind_contextvars(invocation=invocation)
    try:
        proof = await _admit(request)
        body = await read_body(request, request.app[RES].settings.max_webhook_bytes, MOST_READ_BYTES)
        signed = _verify(request, proof, body)
        verified = time.monotonic()
        receipt = await intake.accept(
            request.app[RES], request.headers, body, signature_hash=proof.digest, late=signed.late
        )
        outcome, ids = receipt.status, _logged(receipt, signed)
        return web.json_response(_answer(receipt))
    except HoldfastError as exc:
        outcome = exc.code
        raise
    except Exception:
        outcome = "internal_error"
        raise
    finally:
        WEBHOOKS.labels(outcome).inc()
        if verified is not None:  # unsigned requests must not fill the log
            _log(request.app[RES].traces, began, verified, outcome, ids)


async def _admit(request: web.Request) -> Proof:
    """Check load and headers before the body is read; raises Transient, and Rejected (401)."""
    if intake.is_full(request.app[RES]):
        await asyncio.sleep(REFUSAL_SECONDS)
        raise overloaded()
    try:
        return signature.proof_of(request.headers)
    except Rejected as exc:
        request.app[RES].bad_signatures.bad(exc.code)
        raise


def _verify(request: web.Request, proof: Proof, body: bytes) -> Verified:
    settings = request.app[RES].settings
    streak = request.app[RES].bad_signatures
    try:
        signed = signature.verify(
            proof,
            body,
            secrets=[secret.get_secret_value() for secret in request.app[RES].account.secrets],
            now=datetime.now(UTC),
            tolerance=timedelta(seconds=settings.webhook_tolerance_seconds),
        )
    except Rejected as exc:
        streak.bad(exc.code)
        raise
    streak.good()
    if signed.skew is None:
        log.warning("signature_time_unreadable")
    else:
        SIGNATURE_SKEW.observe(abs(signed.skew.total_seconds()))
    if signed.late:
        LATE_WEBHOOKS.inc()
    return signed


def _log(traces: Traces, began: float, verified: float, outcome: str, ids: Mapping[str, int]) -> None:
    """Log and trace the outcome of a webhook; `ids` is empty if it was refused."""
    ended = time.monotonic()
    log.info("webhook_received", outcome=outcome, **ids, ms=round(1000 * (ended - began), 1))
    invocation = get_contextvars().get("invocation", "")
    # A repeated invocation has the same trace, but another span.
    span = "webhook" if outcome in {"accepted", "quarantined"} else f"webhook {began}"
    error = None if ids else outcome
    traces.record(invocation, "webhook", ended - began, {"outcome": outcome, **ids}, at=span, error=error)
    traces.record(invocation, "intake", ended - verified, {}, under=span, error=error)


def _logged(receipt: intake.IntakeResult, signed: Verified) -> dict[str, int]:
    """Return the id of the e-mail or stored request, for logs and traces."""
    return {_ID_FIELDS[receipt.status]: receipt.number or 0, **({"late": True} if signed.late else {})}


def _answer(receipt: intake.IntakeResult) -> dict[str, str | int]:
    if receipt.status == "ignored" or not receipt.number:
        return {"status": receipt.status}
    return {"status": receipt.status, _ID_FIELDS[receipt.status]: receipt.number}
