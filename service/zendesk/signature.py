"""Sign and verify a webhook's raw bytes.

https://developer.zendesk.com/documentation/webhooks/verifying/
"""

import hashlib
import hmac
import re
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from service.errors import Rejected

SIGNATURE = "X-Zendesk-Webhook-Signature"
TIMESTAMP = "X-Zendesk-Webhook-Signature-Timestamp"
WEBHOOK_ID = "X-Zendesk-Webhook-Id"
INVOCATION_ID = "X-Zendesk-Webhook-Invocation-Id"
ACCOUNT_ID = "X-Zendesk-Account-Id"

# The code of a signature that may be right: nobody can tell yet.
SECRETS_LATE = "signing_secrets_late"
# After a start, and after an outage of Zendesk or Postgres, secrets are known in less time: they are fetched once a minute.
UNCERTAIN_SECONDS = 150

# No format of a time is longer.
MOST_TIMESTAMP = 40

_SIGNATURE = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")  # 32 bytes in base64, in canonical form
_EPOCH = re.compile(r"([0-9]{9,10}(?:\.[0-9]{1,9})?)|([0-9]{12,13})")  # seconds or milliseconds, since 1973
_ISO_8601 = re.compile(
    r"([0-9]{4})-?([0-9]{2})-?([0-9]{2})[T ]"
    r"([0-9]{2}):?([0-9]{2})(?::?([0-9]{2})(?:[.,]([0-9]{1,6})[0-9]*)?)?"
    r" ?(?:(Z|UTC|GMT)|([+-][0-9]{2}):?([0-9]{2})?)?",
    re.IGNORECASE,
)
# The end of a timestamp that a body follows directly: after a time in digits, or else after the last
# character that occurs in times. No JSON and no XML begins with such a character.
_TIME_IN_DIGITS = re.compile(rf"(?:{_ISO_8601.pattern})|[0-9]{{9,}}(?:\.[0-9]{{1,9}})?", re.IGNORECASE)
_TIME_IN_WORDS = re.compile(r"[A-Za-z0-9+-][A-Za-z0-9 .,:+-]*")


@dataclass(frozen=True, slots=True)
class Proof:
    """The two headers of a signature, each of a plausible form; nothing is verified yet."""

    signature: str
    timestamp: str

    @property
    def digest(self) -> bytes:
        """The hash that identifies the invocation: a repeated signed request can change any header but these."""
        return hashlib.sha256(f"{self.timestamp}\n{self.signature}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Verified:
    """The age of the signed time by our clock (None if unreadable), and whether it is outside the tolerance."""

    skew: timedelta | None
    late: bool


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of `body` at `timestamp`; the key is the secret's text, without decoding it."""
    mac = hmac.digest(to_bytes(secret), to_bytes(timestamp) + body, "sha256")
    return b64encode(mac).decode("ascii")


def proof_of(headers: Mapping[str, str]) -> Proof:
    """Read the two headers before the body is known.

    Raises Rejected (401) if one is missing, or has an impossible form.
    """
    signature, timestamp = headers.get(SIGNATURE), headers.get(TIMESTAMP)
    if not signature:
        raise Rejected(401, "signature_missing", f"The header {SIGNATURE} is missing.")
    if not timestamp:
        raise Rejected(401, "timestamp_missing", f"The header {TIMESTAMP} is missing.")
    if not _SIGNATURE.fullmatch(signature):
        raise _mismatch()
    if len(timestamp) > MOST_TIMESTAMP or _end_of_timestamp(timestamp) != len(timestamp):
        raise _malformed()
    return Proof(signature, timestamp)


def verify(
    proof: Proof, body: bytes, *, secrets: Sequence[str], now: datetime, tolerance: timedelta
) -> Verified:
    """Verify the signature; raises Rejected (401). A time outside the tolerance is only marked as late.

    The signature covers the timestamp directly followed by the body. To stop a shift of bytes between the
    two, the timestamp must have the one length that their joined text allows.
    """
    # Every secret is tried, so that the duration does not reveal the matching one.
    matches = [
        hmac.compare_digest(sign(secret, proof.timestamp, body), proof.signature)
        for secret in secrets
        if secret.strip()
    ]
    if not any(matches):
        raise _mismatch()
    beginning = proof.timestamp + body[:MOST_TIMESTAMP].decode("latin-1")
    if _end_of_timestamp(beginning) != len(proof.timestamp):
        raise _malformed()
    signed_at = read_time(proof.timestamp)
    skew = None if signed_at is None else now - signed_at
    return Verified(skew, late=skew is not None and abs(skew) > tolerance)


def read_time(text: str) -> datetime | None:
    """Read ISO-8601 or seconds or milliseconds since 1970, in UTC without a zone; None for any other text."""
    try:
        if match := _EPOCH.fullmatch(text):
            seconds, milliseconds = match.groups()
            return datetime.fromtimestamp(float(seconds) if seconds else int(milliseconds) / 1000, UTC)
        if match := _ISO_8601.fullmatch(text):
            year, month, day, hour, minute, second, fraction, _, zone, zone_minute = match.groups()
            zone = f"{zone}:{zone_minute or '00'}" if zone else "+00:00"
            clock = f"{hour}:{minute}:{second or '00'}.{(fraction or '').ljust(6, '0')}"
            return datetime.fromisoformat(f"{year}-{month}-{day}T{clock}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):  # 31 February, or an offset outside the calendar
        return None
    return None


def _end_of_timestamp(text: str) -> int:
    found = _TIME_IN_DIGITS.match(text) or _TIME_IN_WORDS.match(text)
    return len(found[0].rstrip(" ")) if found else 0


def _mismatch() -> Rejected:
    return Rejected(401, "signature_mismatch", "The signature matches none of our secrets.")


def _malformed() -> Rejected:
    wanted = f"The header {TIMESTAMP} is not a time of at most {MOST_TIMESTAMP} characters."
    return Rejected(401, "timestamp_malformed", wanted)


def to_bytes(text: str) -> bytes:
    """Return the bytes that `text` was decoded from: aiohttp and os.environ keep stray bytes as lone surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode("utf-8", "surrogatepass")


@dataclass
class Streak:
    """Bad signatures in a row, counted in memory only: a bad request must not cost a write.

    A signature is uncertain while Zendesk or Postgres has not told the secrets, as for moments after each start.
    """

    length: int = 0
    code: str = ""  # of the last one that was wrong for certain, if one was
    noted: int = 0  # the recorded length
    is_certain: bool = False  # of one at least
    first: float = 0.0  # when they came, in monotonic seconds
    last: float = 0.0

    @property
    def age(self) -> float:
        """Seconds since the last bad signature."""
        return time.monotonic() - self.last

    @property
    def is_alarming(self) -> bool:
        """Whether one is wrong for certain, or all have been uncertain for longer than a start takes."""
        return self.is_certain or self.last - self.first >= UNCERTAIN_SECONDS

    def bad(self, code: str, *, is_certain: bool) -> None:
        self.last = time.monotonic()
        if not self.length:
            self.first = self.last
        self.length += 1
        if is_certain or not self.is_certain:
            self.code = code
        self.is_certain = self.is_certain or is_certain

    def good(self) -> None:
        self.length = self.noted = 0
        self.is_certain = False
