"""Verify the signature and parse the payload with Holdfast's functions, for all implementations alike."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from service.zendesk import payloads, signature

_SECRETS = (os.environ.get("ZENDESK_WEBHOOK_SECRETS", ""),)
_TOLERANCE = timedelta(seconds=int(os.environ.get("WEBHOOK_TOLERANCE_SECONDS", "3600")))


def read(headers: Mapping[str, str], body: bytes) -> payloads.Email:
    """Verify and parse a webhook. Raises Rejected and Unreadable."""
    proof = signature.proof_of(headers)
    signature.verify(proof, body, secrets=_SECRETS, now=datetime.now(UTC), tolerance=_TOLERANCE)
    email = payloads.parse(body)
    assert isinstance(email, payloads.Email)  # noqa: S101 the benchmark sends no events
    return email
