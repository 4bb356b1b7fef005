"""Zendesk's door: the size while reading, then the signature over the raw bytes, then intake."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from aiohttp import web
from structlog.contextvars import bind_contextvars, get_contextvars

from service import intake
from service.errors import HoldfastError, Rejected, Transient
from service.intake import Receipt
from service.metrics import SIGNATURE_SKEW, WEBHOOKS
from service.telemetry.spans import Traces
from service.web.keys import RES
from service.zendesk import signature

# Zendesk gives a webhook ten seconds in all, and Postgres has its own budget of them.
BODY_SECONDS = 5.0
# To refuse costs nearly as much as to take: who comes again at once must not have all of our time.
REFUSAL_SECONDS = 0.25
# Of bodies that nobody has vouched for yet, all together.
MOST_READ_BYTES = 64 * 1024**2

log = structlog.get_logger()


@dataclass
class Load:
    """How much of bodies this process holds that it is still reading."""

    read_bytes: int = 0


LOAD = web.AppKey("load", Load)


async def receive(request: web.Request) -> web.Response:
    """Answer 200 once the request is committed, and only then."""
    began, verified = time.monotonic(), None
    outcome, answer = "cancelled", {}
    if invocation := intake.invocation_of(request.headers):
        bind_contextvars(invocation=invocation)
    try:
        body = await _read(request)
        _verify(request, body)
        verified = time.monotonic()
        receipt = await intake.accept(request.app[RES], request.headers, body)
        outcome, answer = receipt.status, _answer(receipt)
        return web.json_response(answer)
    except HoldfastError as exc:
        outcome = exc.code
        raise
    except Exception:
        outcome = "internal_error"
        raise
    finally:
        WEBHOOKS.labels(outcome).inc()
        if verified is not None:  # else anybody could fill the log
            _tell(request.app[RES].traces, began, verified, outcome, answer)


async def _read(request: web.Request) -> bytes:
    most, load = request.app[RES].settings.max_webhook_bytes, request.app[LOAD]
    if intake.is_full(request.app[RES]):
        await asyncio.sleep(REFUSAL_SECONDS)
        raise _overloaded()
    if request.content_type != "application/json":
        raise Rejected(415, "unsupported_media_type", "Send the webhook as application/json.")
    encodings = ",".join(request.headers.getall("Content-Encoding", ())).lower().split(",")
    if {encoding.strip() for encoding in encodings} - {"", "identity"}:
        raise Rejected(
            415, "unsupported_encoding", "Send the webhook uncompressed: its signature is over the raw bytes."
        )
    if (request.content_length or 0) > most:
        raise _too_large(most)
    body = bytearray()
    # A body that we did not get whole is answered with a 503, which Zendesk repeats; a 4xx would lose it.
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                load.read_bytes += len(chunk)
                if len(body) > most:
                    raise _too_large(most)
                if load.read_bytes > MOST_READ_BYTES:
                    raise _overloaded()
    except TimeoutError:
        raise Transient("body_slow", f"The body did not arrive within {BODY_SECONDS:g} s.") from None
    except (OSError, web.RequestPayloadError) as exc:
        raise Transient("body_incomplete", "The body broke off.") from exc
    finally:
        load.read_bytes -= len(body)
    return bytes(body)


def _overloaded() -> Transient:
    return Transient("overloaded", "More webhooks come in than can be taken.")


def _too_large(most: int) -> Rejected:
    return Rejected(413, "too_large", f"A webhook may have {most:,} bytes.")


def _verify(request: web.Request, body: bytes) -> None:
    settings = request.app[RES].settings
    streak = request.app[RES].bad_signatures
    try:
        skew = signature.verify(
            request.headers,
            body,
            secrets=[secret.get_secret_value() for secret in request.app[RES].account.secrets],
            now=datetime.now(UTC),
            tolerance=timedelta(seconds=settings.webhook_tolerance_seconds),
        )
    except Rejected as exc:
        streak.bad(exc.code)
        raise
    streak.good()
    if skew is None:
        log.warning("signature_time_unreadable")
    else:
        SIGNATURE_SKEW.observe(abs(skew.total_seconds()))


def _tell(
    traces: Traces, began: float, verified: float, outcome: str, answer: Mapping[str, str | int]
) -> None:
    """Tell in one line and in a trace what became of a webhook; its answer is empty where it could not be taken."""
    ended = time.monotonic()
    about = {name: number for name, number in answer.items() if name != "status"}
    log.info("webhook_received", outcome=outcome, **about, ms=round(1000 * (ended - began), 1))
    invocation = get_contextvars().get("invocation", "")
    # One that is sent again is of the same trace, but not the same span.
    place = "webhook" if outcome in {"accepted", "quarantined"} else f"webhook {began}"
    error = None if answer else outcome
    traces.record(invocation, "webhook", ended - began, {"outcome": outcome, **about}, at=place, error=error)
    traces.record(invocation, "intake", ended - verified, {}, under=place, error=error)


def _answer(receipt: Receipt) -> dict[str, str | int]:
    number = {"accepted": "email_id", "duplicate": "email_id", "quarantined": "quarantine_id"}
    key = number.get(receipt.status)
    return {"status": receipt.status, **({key: receipt.number} if key and receipt.number else {})}
