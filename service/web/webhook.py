"""Zendesk's webhook: check the headers, read the body, verify its signature, hand it to intake."""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Literal, Self

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, Field, RootModel
from structlog.contextvars import bind_contextvars, get_contextvars

from service import intake
from service.connect.secrets import known_secrets, learn
from service.errors import HoldfastError, Rejected
from service.resources import Resources
from service.telemetry.exporters import Traces
from service.telemetry.metrics import LATE_WEBHOOKS, SIGNATURE_SKEW, WEBHOOKS
from service.web.bodies import overloaded, read_body
from service.web.handling.keys import RES
from service.web.handling.middleware import is_webhook
from service.web.handling.routes import Routes
from service.zendesk import signature
from service.zendesk.rules import WEBHOOK_PATH
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

# What the short way leaves to the application: a body that it read, and an error that it counted.
WHOLE_BODY = web.RequestKey("whole_body", bytes)
FAILURE = web.RequestKey("failure", Exception)

_counter_of = cache(WEBHOOKS.labels)  # outcomes are a closed set

log = structlog.get_logger()
routes = Routes("Webhook")


class Invocation(RootModel[Mapping[str, object]]):
    """The JSON of the trigger's template, with `ticket_id` at least, or a Zendesk event."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ticket_id": "35436", "comment_id": "4711"}]})


class Receipt(BaseModel):
    """The result of the committed request; nothing is kept of one about an erased e-mail."""

    status: Literal["accepted", "duplicate", "ignored", "quarantined", "erased"]
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
        401: "The signature is missing (`signature_missing`) or wrong (`signature_mismatch`), or its timestamp cannot be"
        " parsed (`timestamp_malformed`).",
        413: "The body is too large (`too_large`).",
        503: "The request could not be committed, such as for `database_unavailable`: send it again.",
    },
)
async def receive(request: web.Request) -> web.Response:
    """Receive a Zendesk webhook."""
    # The answer is 200 once the request is committed, and only then.
    if FAILURE in request:
        raise request[FAILURE]
    res = request.app[RES]
    with Reception(res, request.headers) as reception:
        proof = await _admit(request)
        body = request.get(WHOLE_BODY)
        if body is None:
            body = await read_body(request, res.settings.max_webhook_bytes, MOST_READ_BYTES)
        signed = await _verify(res, proof, body)
        return web.json_response(text=await reception.save(proof, signed, body))


def verify_at_once(res: Resources, headers: Mapping[str, str], body: bytes) -> tuple[Proof, Verified]:
    """Verify the signature with the known secrets, and count nothing; raises Rejected (401)."""
    proof = signature.proof_of(headers)
    return proof, _verify_with(res, proof, body)


class Reception:
    """One webhook, from its first line to its outcome: counted once, and logged if its signature is valid."""

    __slots__ = ("_began", "_headers", "_ids", "_outcome", "_res", "_verified")

    def __init__(self, res: Resources, headers: Mapping[str, str]) -> None:
        self._res = res
        self._headers = headers
        self._began = time.monotonic()
        self._verified: float | None = None
        self._outcome = "cancelled"
        self._ids: Mapping[str, int] = {}

    def __enter__(self) -> Self:
        if invocation := intake.invocation_of(self._headers):
            bind_contextvars(invocation=invocation)
        return self

    async def save(self, proof: Proof, signed: Verified, body: bytes) -> str:
        """Commit a request with a valid signature; return the answer as JSON. Raises as `intake.accept` does."""
        self._verified = time.monotonic()
        _count_signature(self._res, signed)
        receipt = await intake.accept(
            self._res, self._headers, body, signature_hash=proof.digest, late=signed.late
        )
        self._outcome, self._ids = receipt.status, _logged(receipt, signed)
        return _answer(receipt)

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, HoldfastError):
            self._outcome = error.code
        elif isinstance(error, Exception):
            self._outcome = "internal_error"
        _counter_of(self._outcome).inc()
        if self._verified is not None:  # unsigned requests must not fill the log
            _log(self._res.traces, self._began, self._verified, self._outcome, self._ids)


async def _admit(request: web.Request) -> Proof:
    """Check load and headers before the body is read; raises Transient, and Rejected (401)."""
    if intake.is_full(request.app[RES]):
        await asyncio.sleep(REFUSAL_SECONDS)
        raise overloaded()
    try:
        return signature.proof_of(request.headers)
    except Rejected as exc:
        request.app[RES].bad_signatures.bad(exc.code, is_certain=True)
        raise


async def _verify(res: Resources, proof: Proof, body: bytes) -> Verified:
    """Verify the signature; a new or rotated secret is learned first. Raises Rejected (401) and Transient."""
    try:
        return await _verify_and_learn(res, proof, body)
    except HoldfastError as exc:
        res.bad_signatures.bad(exc.code, is_certain=isinstance(exc, Rejected))
        raise


async def _verify_and_learn(res: Resources, proof: Proof, body: bytes) -> Verified:
    while True:
        version = res.learned_secrets.version
        try:
            return _verify_with(res, proof, body)
        except Rejected as exc:
            # News may be older than the secret of this request: then the next look tells.
            if exc.code != "signature_mismatch" or not await learn(res, version):
                raise


def _verify_with(res: Resources, proof: Proof, body: bytes) -> Verified:
    return signature.verify(
        proof,
        body,
        secrets=known_secrets(res),
        now=datetime.now(UTC),
        tolerance=timedelta(seconds=res.settings.webhook_tolerance_seconds),
    )


def _count_signature(res: Resources, signed: Verified) -> None:
    res.bad_signatures.good()
    if signed.skew is None:
        log.warning("signature_time_unreadable")
    else:
        SIGNATURE_SKEW.observe(abs(signed.skew.total_seconds()))
    if signed.late:
        LATE_WEBHOOKS.inc()


def _log(traces: Traces, began: float, verified: float, outcome: str, ids: Mapping[str, int]) -> None:
    """Log and trace the outcome of a webhook; `ids` is empty if it was refused, or is about an erased e-mail."""
    ended = time.monotonic()
    log.info("webhook_received", outcome=outcome, **ids, ms=round(1000 * (ended - began), 1))
    if not traces.is_on:
        return
    invocation = get_contextvars().get("invocation", "")
    # A repeated invocation has the same trace, but another span.
    span = "webhook" if outcome in {"accepted", "quarantined"} else f"webhook {began}"
    error = None if ids or outcome == "erased" else outcome
    traces.record(invocation, "webhook", ended - began, {"outcome": outcome, **ids}, at=span, error=error)
    traces.record(invocation, "intake", ended - verified, {}, under=span, error=error)


def _logged(receipt: intake.IntakeResult, signed: Verified) -> dict[str, int]:
    """Return the id of the e-mail or stored request, for logs and traces."""
    number = {_ID_FIELDS[receipt.status]: receipt.number} if receipt.number else {}
    return {**number, **({"late": True} if signed.late else {})}


def _answer(receipt: intake.IntakeResult) -> str:
    """Return the JSON of a Receipt: it has no text that would need an encoder."""
    if receipt.status == "ignored" or not receipt.number:
        return f'{{"status": "{receipt.status}"}}'
    return f'{{"status": "{receipt.status}", "{_ID_FIELDS[receipt.status]}": {receipt.number}}}'
