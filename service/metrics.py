"""Every metric there is. Labels take their values from closed sets only."""

import os
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

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
ALERTS = Counter("holdfast_alerts_total", "Alerts opened", ["cause"])
ALERT_DELIVERIES = Counter(
    "holdfast_alert_deliveries_total",
    "Sendings of alerts by how they ended; given up after a day: failed",
    ["channel", "outcome"],
)

_MANY = 50


def exposition(by_status: Mapping[str, int], oldest_waiting_seconds: float) -> bytes:
    """Write all metrics in Prometheus' text format; blocks.

    Where several web processes count together, it is the sums that are written.
    """
    registry = CollectorRegistry()
    registry.register(_Emails(by_status, oldest_waiting_seconds))
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest() + generate_latest(registry)
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class _Emails(Collector):
    """What is so at this moment, and the same for all processes."""

    def __init__(self, by_status: Mapping[str, int], oldest_waiting_seconds: float) -> None:
        self._by_status = by_status
        self._oldest = oldest_waiting_seconds

    def collect(self) -> Iterable[Metric]:
        emails = GaugeMetricFamily(
            "holdfast_emails", "E-mails by status, counted up to 10,000 each", labels=["status"]
        )
        for status, count in self._by_status.items():
            emails.add_metric([status], count)
        yield emails
        yield GaugeMetricFamily(
            "holdfast_oldest_waiting_seconds", "Age of the oldest e-mail that is not finished", self._oldest
        )


def event_type_label(event_type: str) -> str:
    """Keep the set of labels closed, whatever an account subscribes to: 50 types, then `other`."""
    known = {labels["type"] for metric in IGNORED_EVENTS.collect() for _, labels, *_ in metric.samples}
    return event_type[:100] if event_type in known or len(known) < _MANY else "other"
