"""Sign and verify a webhook's raw bytes.

https://developer.zendesk.com/documentation/webhooks/verifying/
"""

import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from service.errors import Rejected

SIGNATURE = "X-Zendesk-Webhook-Signature"
TIMESTAMP = "X-Zendesk-Webhook-Signature-Timestamp"
WEBHOOK_ID = "X-Zendesk-Webhook-Id"
INVOCATION_ID = "X-Zendesk-Webhook-Invocation-Id"
ACCOUNT_ID = "X-Zendesk-Account-Id"

_EPOCH = re.compile(r"([0-9]{9,10}(?:\.[0-9]{1,9})?)|([0-9]{12,13})")  # seconds or milliseconds, since 1973
_ISO_8601 = re.compile(
    r"([0-9]{4})-?([0-9]{2})-?([0-9]{2})[T ]"
    r"([0-9]{2}):?([0-9]{2})(?::?([0-9]{2})(?:[.,]([0-9]{1,6})[0-9]*)?)?"
    r" ?(?:(Z|UTC|GMT)|([+-][0-9]{2}):?([0-9]{2})?)?",
    re.IGNORECASE,
)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of `body` at `timestamp`: the secret's own bytes are the key, not what they decode to."""
    mac = hmac.new(to_bytes(secret), to_bytes(timestamp), hashlib.sha256)
    mac.update(body)
    return b64encode(mac.digest()).decode("ascii")


def verify(
    headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str], now: datetime, tolerance: timedelta
) -> timedelta | None:
    """Return how far the signed time lies behind `now`, or None where it cannot be read as a time.

    Raises Rejected (401). Zendesk documents the timestamp as an opaque string, so one that we cannot
    read is accepted: it was signed.
    """
    signature, timestamp = headers.get(SIGNATURE), headers.get(TIMESTAMP)
    if not signature:
        raise Rejected(401, "signature_missing", f"The header {SIGNATURE} is missing.")
    if not timestamp:
        raise Rejected(401, "timestamp_missing", f"The header {TIMESTAMP} is missing.")

    # Every secret is tried, so that the time taken does not tell which one matched.
    given = to_bytes(signature)
    matches = [
        hmac.compare_digest(sign(secret, timestamp, body).encode(), given)
        for secret in secrets
        if secret.strip()
    ]
    if not any(matches):
        raise Rejected(401, "signature_mismatch", "The signature fits none of our secrets.")

    signed_at = read_time(timestamp)
    if signed_at is None:
        return None
    skew = now - signed_at
    if abs(skew) > tolerance:
        seconds = int(skew.total_seconds())
        raise Rejected(
            401,
            "timestamp_skew",
            f"The signed time is {abs(seconds)} s {'behind' if seconds > 0 else 'ahead of'} our clock; "
            f"{tolerance.total_seconds():g} s are tolerated.",
            skew_seconds=seconds,
        )
    return skew


def read_time(text: str) -> datetime | None:
    """Read ISO-8601 or seconds or milliseconds since 1970, UTC where no zone is given; None for all else."""
    try:
        if match := _EPOCH.fullmatch(text):
            seconds, milliseconds = match.groups()
            return datetime.fromtimestamp(float(seconds) if seconds else int(milliseconds) / 1000, UTC)
        if match := _ISO_8601.fullmatch(text):
            year, month, day, hour, minute, second, fraction, _, zone, zone_minute = match.groups()
            zone = f"{zone}:{zone_minute or '00'}" if zone else "+00:00"
            clock = f"{hour}:{minute}:{second or '00'}.{(fraction or '').ljust(6, '0')}"
            return datetime.fromisoformat(f"{year}-{month}-{day}T{clock}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):  # 31 February, an offset that leaves the calendar
        return None
    return None


def to_bytes(text: str) -> bytes:
    """Return the bytes that `text` was decoded from: aiohttp and os.environ keep stray bytes as lone surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode("utf-8", "surrogatepass")
