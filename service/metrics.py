"""Every metric there is, and how they are written down. Labels take their values from closed sets only."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call] # half of the text, and Prometheus asks for none of it

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)

# ── webhooks
WEBHOOKS = Counter("holdfast_webhooks_total", "Webhooks by what we answered", ["outcome"])
for _outcome in (
    *("accepted", "duplicate", "ignored", "quarantined", "signature_missing", "signature_mismatch"),
    *("timestamp_missing", "timestamp_skew", "overloaded", "database_slow", "database_unavailable"),
):  # an alert sees a counter's first step only if it was there before
    WEBHOOKS.labels(_outcome)
IGNORED_EVENTS = Counter("holdfast_ignored_events_total", "Events of types that we do not use", ["type"])
SIGNATURE_SKEW = Histogram(
    "holdfast_signature_skew_seconds",
    "How far a signature's time was from ours",
    buckets=(1, 5, 30, 60, 300, 900, 3600),
)
# ── jobs
TRANSITIONS = Counter("holdfast_transitions_total", "E-mails that entered a state, by what", ["to", "by"])
DISPATCHES = Counter("holdfast_dispatches_total", "Jobs rung on Redis", ["outcome"])
SWEEPS = Counter("holdfast_sweeps_total", "Sweeps by whether Postgres answered", ["outcome"])
SWEPT = Counter("holdfast_swept_jobs_total", "Jobs that sweeps found due")
QUEUE_DELAY = Histogram(
    "holdfast_queue_delay_seconds",
    "From the commit of an e-mail to the start of its first attempt",
    buckets=_SECONDS,
)
PROCESSING = Histogram(
    "holdfast_processing_seconds", "From the claim of a job to the end of the attempt", buckets=_SECONDS
)
ATTEMPTS = Counter(
    "holdfast_attempts_total", "Attempts by how they ended, and by the first error", ["outcome", "code"]
)
# ── files
ATTACHMENTS = Counter("holdfast_attachments_total", "Downloads of attachments by how they ended", ["code"])
ATTACHMENT_BYTES = Counter("holdfast_attachment_bytes_total", "Bytes of attachments stored")
DOWNLOAD_BYTES = Counter(
    "holdfast_download_bytes_total",
    "Bytes that came from the account, another allowed host, or others",
    ["host"],
)
DOWNLOAD_SECONDS = Histogram(
    "holdfast_download_seconds",
    "From the request to the last byte, or to the error, by the host that sent it",
    ["host"],
    buckets=_SECONDS,
)
# ── the sync
SYNCS = Counter(
    "holdfast_syncs_total",
    "Attempts to carry an e-mail over by how they ended, and by the error",
    ["outcome", "code"],
)
SYNC_SECONDS = Histogram(
    "holdfast_sync_seconds", "From the claim of a sync to the end of the attempt", buckets=_SECONDS
)
SYNC_DELAY = Histogram(
    "holdfast_sync_delay_seconds",
    "From the end of a job, or from when somebody wanted it again, to the first attempt of its sync",
    buckets=_SECONDS,
)
# ── reconciliations
RECONCILIATIONS = Counter(
    "holdfast_reconciliations_total",
    "Comparisons of Postgres with target and storage by how they ended",
    ["outcome"],
)
for _outcome in ("done", "failed", "abandoned"):
    RECONCILIATIONS.labels(_outcome)
# ── Postgres
BATCHES = Histogram(
    "holdfast_coalesced_batch_size",
    "How many callers shared one statement",
    ["statement"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200),
)
POOL_SIZE = Gauge(
    "holdfast_database_pool_size", "Connections to Postgres that there may be", multiprocess_mode="livesum"
)
POOL_IN_USE = Gauge(
    "holdfast_database_pool_in_use", "Connections to Postgres that are lent", multiprocess_mode="livesum"
)
POOL_WAITING = Gauge(
    "holdfast_database_pool_waiting", "Statements that wait for a connection", multiprocess_mode="livesum"
)
# ── alerts
ALERTS = Counter("holdfast_alerts_total", "Alerts opened", ["cause"])
ALERT_DELIVERIES = Counter(
    "holdfast_alert_deliveries_total",
    "Sendings of alerts by how they ended; given up after a day: failed",
    ["channel", "outcome"],
)

# What a process's text may weigh at most: it lies in a row that is written every few seconds.
MOST_TEXT = 128 * 1024
_MANY = 50

_codes: set[str] = {""}
_types: set[str] = set()


class Record(Protocol):
    """What Postgres knows: depths and ages, the same for all processes."""

    @property
    def by_status(self) -> Mapping[Any, int]: ...
    @property
    def oldest_by_status(self) -> Mapping[Any, float]: ...
    @property
    def quarantined(self) -> int: ...
    @property
    def oldest_waiting_seconds(self) -> float | None: ...
    @property
    def oldest_not_begun_seconds(self) -> float | None: ...
    @property
    def by_sync_status(self) -> Mapping[Any, int]: ...
    @property
    def oldest_sync_seconds(self) -> float | None: ...


class Reconciled(Protocol):
    """What runs found and nobody put right, and when one was done or got on."""

    @property
    def by_kind(self) -> Mapping[str, int]: ...
    @property
    def compared_at(self) -> datetime | None: ...


def exposition(
    record: Record | None = None,
    workers: Mapping[str, str] | None = None,
    reconciled: Reconciled | None = None,
) -> bytes:
    """Write all metrics in Prometheus' text format: ours, and those that workers wrote, by name; blocks.

    Without a record, what it would tell is left out. Where several web processes count together, it is the sums
    that are written.
    """
    families = {
        _name(family): family
        for family in (*_registry().collect(), *_recorded(record, workers), *_reconciled(reconciled))
    }
    for worker, text in (workers or {}).items():
        _add(families, worker, text)
    return generate_latest(_Written(families.values()))


def text_of_process() -> str | None:
    """Write what this process has counted; None where that is more than can be kept; blocks."""
    families = [family for family in REGISTRY.collect() if not family.name.startswith("python_")]
    text = generate_latest(_Written(families)).decode()
    return text if len(text) <= MOST_TEXT else None


def forget_process(pid: int) -> None:
    """Take back the gauges of a process that died, where several count together."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        with suppress(FileNotFoundError):  # somebody removed the directory
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def code_label(code: str | None) -> str:
    """Keep the set of labels closed, whatever code an error may have: 50, then `other`."""
    return _bounded(_codes, code or "")


def event_type_label(event_type: str) -> str:
    """Keep the set of labels closed, whatever an account subscribes to: 50 types, then `other`."""
    return _bounded(_types, event_type[:100])


def _bounded(known: set[str], value: str) -> str:
    if value not in known and len(known) < _MANY:
        known.add(value)
    return value if value in known else "other"


class _Written(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _name(family: Metric) -> str:
    """Give the name that stands in the text; two families may not have one."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def _registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _recorded(record: Record | None, workers: Mapping[str, str] | None) -> Iterable[Metric]:
    emails = GaugeMetricFamily(
        "holdfast_emails", "E-mails by status, counted up to 10,000 each", labels=["status"]
    )
    ages = GaugeMetricFamily(
        "holdfast_oldest_seconds", "Age of the oldest e-mail in a state that is not final", labels=["status"]
    )
    oldest = GaugeMetricFamily(
        "holdfast_oldest_waiting_seconds", "Age of the oldest e-mail that is not finished"
    )
    not_begun = GaugeMetricFamily(
        "holdfast_oldest_not_begun_seconds", "Age of the oldest e-mail that waits and had no attempt yet"
    )
    quarantined = GaugeMetricFamily(
        "holdfast_quarantined_webhooks", "Webhooks that wait in quarantine, counted up to 10,000"
    )
    syncs = GaugeMetricFamily(
        "holdfast_syncs",
        "Finished e-mails that wait for their sync, and those that could not be synced, counted up to 10,000 each",
        labels=["status"],
    )
    oldest_sync = GaugeMetricFamily(
        "holdfast_oldest_sync_seconds", "How long a finished e-mail has waited for its sync by now, at most"
    )
    alive = GaugeMetricFamily("holdfast_workers", "Workers that were heard of within the last minute")
    if record is not None:
        for status, count in record.by_status.items():
            emails.add_metric([status], count)
        for status, seconds in record.oldest_by_status.items():
            ages.add_metric([status], seconds)
        oldest.add_metric([], record.oldest_waiting_seconds or 0)
        not_begun.add_metric([], record.oldest_not_begun_seconds or 0)
        quarantined.add_metric([], record.quarantined)
        for status, count in record.by_sync_status.items():
            syncs.add_metric([status], count)
        oldest_sync.add_metric([], record.oldest_sync_seconds or 0)
    if workers is not None:
        alive.add_metric([], len(workers))
    return emails, ages, oldest, not_begun, quarantined, syncs, oldest_sync, alive


def _reconciled(reconciled: Reconciled | None) -> Iterable[Metric]:
    findings = GaugeMetricFamily(
        "holdfast_reconciliation_findings",
        "What reconciliations and verifications found and nobody put right, by kind",
        labels=["kind"],
    )
    age = GaugeMetricFamily(
        "holdfast_reconciliation_age_seconds",
        "How long ago a reconciliation was done, or one under way got on",
    )
    if reconciled is not None:
        for kind, count in reconciled.by_kind.items():
            findings.add_metric([kind], count)
        if reconciled.compared_at:
            age.add_metric([], (datetime.now(UTC) - reconciled.compared_at).total_seconds())
    return findings, age


def _add(families: dict[str, Metric], worker: str, text: str) -> None:
    """Put a worker's samples beside ours; a family has one HELP and one TYPE, whoever has samples of it."""
    try:
        found = list(text_string_to_metric_families(text))
    except ValueError:  # of another version, perhaps: no reason to show nothing
        return
    for theirs in found:
        family = families.setdefault(_name(theirs), Metric(theirs.name, theirs.documentation, theirs.type))
        if family.type == theirs.type:
            family.samples += [
                sample._replace(labels={**sample.labels, "worker": worker}) for sample in theirs.samples
            ]
