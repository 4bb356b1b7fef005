"""Zendesk's door: the size while reading, then the signature over the raw bytes, then intake."""

import asyncio
from datetime import UTC, datetime, timedelta

import structlog
from aiohttp import web

from service import intake
from service.errors import Rejected
from service.intake import Receipt
from service.metrics import SIGNATURE_SKEW, WEBHOOKS
from service.web.keys import RES
from service.zendesk import signature

# Zendesk itself gives a webhook ten seconds in all.
BODY_SECONDS = 10.0

log = structlog.get_logger()


async def receive(request: web.Request) -> web.Response:
    """Answer 200 once the request is committed, and only then."""
    try:
        body = await _read(request)
        _verify(request, body)
        receipt = await intake.accept(request.app[RES], request.headers, body)
    except Rejected as exc:
        WEBHOOKS.labels(exc.code).inc()
        raise
    except Exception:
        WEBHOOKS.labels("unavailable").inc()
        raise
    WEBHOOKS.labels(receipt.status).inc()
    return web.json_response(_answer(receipt))


async def _read(request: web.Request) -> bytes:
    most = request.app[RES].settings.max_webhook_bytes
    if request.content_type != "application/json":
        raise Rejected(415, "unsupported_media_type", "Send the webhook as application/json.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Rejected(
            415, "unsupported_encoding", "Send the webhook uncompressed: its signature is over the raw bytes."
        )
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > most:
                    raise Rejected(413, "too_large", f"A webhook may have {most:,} bytes.")
    except TimeoutError:
        raise Rejected(408, "too_slow", f"The body did not arrive within {BODY_SECONDS:g} s.") from None
    return bytes(body)


def _verify(request: web.Request, body: bytes) -> None:
    settings = request.app[RES].settings
    skew = signature.verify(
        request.headers,
        body,
        secrets=[secret.get_secret_value() for secret in settings.zendesk_webhook_secrets],
        now=datetime.now(UTC),
        tolerance=timedelta(seconds=settings.webhook_tolerance_seconds),
    )
    if skew is None:
        log.warning("signature_time_unreadable")
    else:
        SIGNATURE_SKEW.observe(abs(skew.total_seconds()))


def _answer(receipt: Receipt) -> dict[str, object]:
    number = {"accepted": "email_id", "duplicate": "email_id", "quarantined": "quarantine_id"}
    key = number.get(receipt.status)
    return {"status": receipt.status, **({key: receipt.number} if key else {})}
