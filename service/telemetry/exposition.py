"""All metrics in Prometheus' text format: counts of processes, and the depths that Postgres knows."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from prometheus_client import REGISTRY, Metric, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from service.telemetry.metrics import registry

log = structlog.get_logger()

# The most characters of a worker's text; it is written to a row every few seconds.
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
    @property
    def open_failed(self) -> int: ...
    @property
    def open_sync_failed(self) -> int: ...
    @property
    def dismissed(self) -> int: ...
    @property
    def dismissed_webhooks(self) -> int: ...


class Reconciliations(Protocol):
    """Open findings by kind, and when a reconciliation last finished or made progress."""

    @property
    def by_kind(self) -> Mapping[str, int]: ...
    @property
    def compared_at(self) -> datetime | None: ...


class ApiUse(Protocol):
    """The use of the budget of calls to Zendesk's API, in this minute."""

    @property
    def remaining(self) -> int: ...


_DEPTHS: Sequence[
    tuple[str, str, str, Callable[[Depths], Mapping[Any, float] | float]]
] = (  # name, help, label, value
    (
        "holdfast_emails",
        "E-mails by status, counted up to 10,000 each",
        "status",
        lambda depths: depths.by_status,
    ),
    (
        "holdfast_oldest_seconds",
        "Age of the oldest e-mail in a state that is not final",
        "status",
        lambda depths: depths.oldest_by_status,
    ),
    (
        "holdfast_oldest_waiting_seconds",
        "Age of the oldest e-mail that is not finished",
        "",
        lambda depths: depths.oldest_waiting_seconds or 0,
    ),
    (
        "holdfast_oldest_not_begun_seconds",
        "Age of the oldest waiting e-mail without an attempt",
        "",
        lambda depths: depths.oldest_not_begun_seconds or 0,
    ),
    (
        "holdfast_quarantined_webhooks",
        "Webhooks in quarantine, counted up to 10,000",
        "",
        lambda depths: depths.quarantined,
    ),
    (
        "holdfast_need_attention",
        "What failed or waits in quarantine and nobody dismissed, counted up to 10,000 each",
        "kind",
        lambda depths: {
            "failed": depths.open_failed,
            "sync_failed": depths.open_sync_failed,
            "quarantined": depths.quarantined,
        },
    ),
    (
        "holdfast_dismissed",
        "Dismissed e-mails and webhooks in quarantine, counted up to 10,000 each",
        "kind",
        lambda depths: {"emails": depths.dismissed, "webhooks": depths.dismissed_webhooks},
    ),
    (
        "holdfast_syncs",
        "Finished e-mails by the status of their sync, pending or failed, counted up to 10,000 each",
        "status",
        lambda depths: depths.by_sync_status,
    ),
    (
        "holdfast_oldest_sync_seconds",
        "Age of the oldest pending sync",
        "",
        lambda depths: depths.oldest_sync_seconds or 0,
    ),
)


def exposition(
    depths: Depths | None = None,
    workers: Mapping[str, str] | None = None,
    reconciled: Reconciliations | None = None,
    calls: ApiUse | None = None,
    lost: int | None = None,
) -> bytes:
    """Write all metrics in Prometheus' text format: ours, and those of workers, by their names; blocks.

    Without depths, their families are empty. Where several web processes count together, the sums are
    written.
    """
    ours = (*registry().collect(), *_gauges(depths, workers, reconciled, calls, lost))
    families = {_name(family): family for family in ours}
    for worker, text in (workers or {}).items():
        _add(families, worker, text)
    return generate_latest(_Written(families.values()))


def process_metrics() -> str | None:
    """Write the counts of this process; None if they exceed MOST_TEXT; blocks."""
    families = [family for family in REGISTRY.collect() if not family.name.startswith("python_")]
    text = generate_latest(_Written(families)).decode()
    return text if len(text) <= MOST_TEXT else None


@asynccontextmanager
async def serve_process_metrics(port: int | None, host: str) -> AsyncIterator[None]:
    """Serve the counts of this process beside the block, if it has a port; a thread serves during a hang as well."""
    server = None
    if port is not None:
        try:
            server, _ = await asyncio.to_thread(start_http_server, port, host)
        except OSError as exc:  # another worker of this host has the port
            log.warning("metrics_not_served", port=port, error=type(exc).__name__)
    try:
        yield
    finally:
        if server is not None:
            await asyncio.to_thread(server.shutdown)
            server.server_close()


def _gauges(
    depths: Depths | None,
    workers: Mapping[str, str] | None,
    reconciled: Reconciliations | None,
    calls: ApiUse | None,
    lost: int | None,
) -> Iterator[Metric]:
    for name, text, label, value in _DEPTHS:
        yield _gauge(name, text, label, None if depths is None else value(depths))
    alive = None if workers is None else len(workers)
    yield _gauge("holdfast_workers", "Workers with a heartbeat within the last minute", "", alive)
    text = "Open findings of reconciliations and verifications by kind"
    findings = None if reconciled is None else reconciled.by_kind
    yield _gauge("holdfast_reconciliation_findings", text, "kind", findings)
    text, age = "Time since a reconciliation finished or made progress", None
    if reconciled is not None and reconciled.compared_at:
        age = (datetime.now(UTC) - reconciled.compared_at).total_seconds()
    yield _gauge("holdfast_reconciliation_age_seconds", text, "", age)
    text = "Calls to Zendesk's API that the budget of all workers still allows in this minute"
    remaining = None if calls is None else calls.remaining
    yield _gauge("holdfast_zendesk_budget_remaining", text, "", remaining)
    yield _gauge("holdfast_lost_webhooks", "E-mails found within a day that no webhook announced", "", lost)


def _gauge(name: str, text: str, label: str, value: Mapping[Any, float] | float | None) -> Metric:
    """Make a family with a sample for each label's value, or one sample; None leaves it empty."""
    family = GaugeMetricFamily(name, text, labels=[label] if label else None)
    if isinstance(value, Mapping):
        for key, number in value.items():
            family.add_metric([key], number)
    elif value is not None:
        family.add_metric([], value)
    return family


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
