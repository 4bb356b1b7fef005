"""Every metric there is. Labels take their values from closed sets only."""

from prometheus_client import Counter, Gauge, Histogram

WEBHOOKS = Counter("holdfast_webhooks_total", "Webhooks by what we answered", ["outcome"])
IGNORED_EVENTS = Counter("holdfast_ignored_events_total", "Events of types that we do not use", ["type"])
SIGNATURE_SKEW = Histogram(
    "holdfast_signature_skew_seconds",
    "How far a signature's time was from ours",
    buckets=(1, 5, 30, 60, 300, 900, 3600),
)
DISPATCHES = Counter("holdfast_dispatches_total", "Jobs rung on Redis", ["outcome"])
ATTEMPTS = Counter("holdfast_attempts_total", "Attempts by how they ended", ["outcome"])
ATTACHMENTS = Counter("holdfast_attachments_total", "Downloads of attachments by how they ended", ["code"])
ATTACHMENT_BYTES = Counter("holdfast_attachment_bytes_total", "Bytes of attachments stored")
EMAILS = Gauge("holdfast_emails", "E-mails by status, counted up to 10,000 each", ["status"])
OLDEST_WAITING = Gauge("holdfast_oldest_waiting_seconds", "Age of the oldest e-mail that is not finished")

_MANY = 50


def event_type_label(event_type: str) -> str:
    """Keep the set of labels closed, whatever an account subscribes to: 50 types, then `other`."""
    known = {labels["type"] for metric in IGNORED_EVENTS.collect() for _, labels, *_ in metric.samples}
    return event_type[:100] if event_type in known or len(known) < _MANY else "other"
