"""All metrics in Prometheus' text format: counts of processes, and the depths that Postgres knows."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from prometheus_client import REGISTRY, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from service.telemetry.metrics import registry

# The most characters of a worker's text, which is written to a row every few seconds.
MOST_TEXT = 128 * 1024


class Depths(Protocol):
    """Depths and ages from Postgres, the same for all processes."""

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


class Reconciliations(Protocol):
    """Open findings by kind, and when a reconciliation last finished or made progress."""

    @property
    def by_kind(self) -> Mapping[str, int]: ...
    @property
    def compared_at(self) -> datetime | None: ...


def exposition(
    record: Depths | None = None,
    workers: Mapping[str, str] | None = None,
    reconciled: Reconciliations | None = None,
) -> bytes:
    """Write all metrics in Prometheus' text format: ours, and those of workers, by their names; blocks.

    Without depths, their families are empty. Where several web processes count together, the sums are
    written.
    """
    families = {
        _name(family): family
        for family in (*registry().collect(), *_recorded(record, workers), *_reconciled(reconciled))
    }
    for worker, text in (workers or {}).items():
        _add(families, worker, text)
    return generate_latest(_Written(families.values()))


def process_metrics() -> str | None:
    """Write the counts of this process; None if they exceed MOST_TEXT; blocks."""
    families = [family for family in REGISTRY.collect() if not family.name.startswith("python_")]
    text = generate_latest(_Written(families)).decode()
    return text if len(text) <= MOST_TEXT else None


def _recorded(record: Depths | None, workers: Mapping[str, str] | None) -> Iterable[Metric]:
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


def _reconciled(reconciled: Reconciliations | None) -> Iterable[Metric]:
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
    """Add a worker's samples to ours; each family keeps one HELP and one TYPE, whichever process has samples of it."""
    try:
        found = list(text_string_to_metric_families(text))
    except ValueError:  # perhaps from another version: show the other metrics all the same
        return
    for theirs in found:
        family = families.setdefault(_name(theirs), Metric(theirs.name, theirs.documentation, theirs.type))
        if family.type == theirs.type:
            family.samples += [
                sample._replace(labels={**sample.labels, "worker": worker}) for sample in theirs.samples
            ]


class _Written(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _name(family: Metric) -> str:
    """Return the family's name in the text, where each name may stand once."""
    return f"{family.name}_total" if family.type == "counter" else family.name
