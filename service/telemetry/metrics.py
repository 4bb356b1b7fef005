"""All metrics that a process counts. Labels take their values from closed sets only."""

import os
from contextlib import suppress

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

disable_created_metrics()  # type: ignore[no-untyped-call] # they are half of the text, and Prometheus does not need them

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)

# ── webhooks
WEBHOOKS = Counter("holdfast_webhooks_total", "Webhooks by outcome", ["outcome"])
for _outcome in (
    *("accepted", "duplicate", "ignored", "quarantined", "erased"),
    *("signature_missing", "signature_mismatch"),
    *("timestamp_missing", "timestamp_malformed", "overloaded", "database_slow", "database_unavailable"),
    *("database_read_only", "database_too_many_connections", "signing_secrets_late"),
):  # an alert sees the first step of a counter only if the counter was there before
    WEBHOOKS.labels(_outcome)
IGNORED_EVENTS = Counter("holdfast_ignored_events_total", "Events of unused types", ["type"])
SIGNATURE_SKEW = Histogram(
    "holdfast_signature_skew_seconds",
    "Difference between a signature's time and our clock",
    buckets=(1, 5, 30, 60, 300, 900, 3600),
)
LATE_WEBHOOKS = Counter(
    "holdfast_late_webhooks_total", "Webhooks with a valid signature whose time was outside the tolerance"
)
# ── connections of web processes
CONNECTIONS = Gauge("holdfast_connections", "Open connections of web processes", multiprocess_mode="livesum")
CONNECTIONS_CLOSED = Counter(
    "holdfast_connections_closed_total", "Connections closed early by reason", ["reason"]
)
for _reason in ("head_slow", "answer_not_read", "room_needed", "no_room"):
    CONNECTIONS_CLOSED.labels(_reason)
ACCEPT_FAILURES = Counter(
    "holdfast_accept_failures_total",
    "Connections that could not be accepted, mostly at the limit of open files",
)
# ── jobs
TRANSITIONS = Counter(
    "holdfast_transitions_total", "E-mails by the state that they entered, and by the cause", ["to", "by"]
)
DISPATCHES = Counter("holdfast_dispatches_total", "Jobs enqueued in Redis", ["outcome"])
SWEEPS = Counter("holdfast_sweeps_total", "Sweeps by outcome", ["outcome"])
SWEPT = Counter("holdfast_swept_jobs_total", "Due jobs found by sweeps")
QUEUE_DELAY = Histogram(
    "holdfast_queue_delay_seconds",
    "From the commit of an e-mail to the start of its first attempt",
    buckets=_SECONDS,
)
PROCESSING = Histogram(
    "holdfast_processing_seconds", "From the claim of a job to the end of the attempt", buckets=_SECONDS
)
ATTEMPTS = Counter(
    "holdfast_attempts_total", "Attempts by outcome and by the code of the first error", ["outcome", "code"]
)
# ── files
ATTACHMENTS = Counter("holdfast_attachments_total", "Downloads of attachments by outcome", ["code"])
ATTACHMENT_BYTES = Counter("holdfast_attachment_bytes_total", "Bytes of stored attachments")
DOWNLOAD_BYTES = Counter(
    "holdfast_download_bytes_total",
    "Downloaded bytes by host: the account's, another allowed one, or others",
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
    "holdfast_syncs_total", "Attempts of syncs by outcome and by the code of the error", ["outcome", "code"]
)
SYNC_SECONDS = Histogram(
    "holdfast_sync_seconds", "From the claim of a sync to the end of the attempt", buckets=_SECONDS
)
SYNC_DELAY = Histogram(
    "holdfast_sync_delay_seconds",
    "From the end of a job, or from a retry of its sync, to the first attempt of the sync",
    buckets=_SECONDS,
)
# ── reconciliations
RECONCILIATIONS = Counter("holdfast_reconciliations_total", "Reconciliations by outcome", ["outcome"])
for _outcome in ("done", "failed", "abandoned"):
    RECONCILIATIONS.labels(_outcome)
# ── Postgres
BATCHES = Histogram(
    "holdfast_coalesced_batch_size",
    "Callers that shared one statement, or one write to the disk",
    ["statement"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200),
)
POOL_SIZE = Gauge(
    "holdfast_database_pool_size", "Most connections of the pool to Postgres", multiprocess_mode="livesum"
)
POOL_IN_USE = Gauge(
    "holdfast_database_pool_in_use", "Connections to Postgres in use", multiprocess_mode="livesum"
)
POOL_WAITING = Gauge(
    "holdfast_database_pool_waiting", "Statements waiting for a connection", multiprocess_mode="livesum"
)
POOL_OPEN = Gauge("holdfast_database_pool_open", "Open connections to Postgres", multiprocess_mode="livesum")
POOL_REFUSALS = Counter(
    "holdfast_database_refusals_total", "Connections that Postgres refused because too many were open"
)
# ── Zendesk's API
ZENDESK_CALLS = Counter(
    "holdfast_zendesk_calls_total",
    "Calls of Zendesk's API by endpoint, and by outcome: ok, or an error's code",
    ["endpoint", "outcome"],
)
for _endpoint in ("comments", "tickets", "events", "lists", "original", "other"):
    ZENDESK_CALLS.labels(_endpoint, "ok")
ZENDESK_CALLS_PUT_OFF = Counter(
    "holdfast_zendesk_calls_put_off_total", "Calls of Zendesk's API that the budget had to put off"
)
ZENDESK_CALLS_SLOWED = Counter(
    "holdfast_zendesk_calls_slowed_total",
    "Calls of Zendesk's API that waited or were put off because few of the account's minute were left",
)
ZENDESK_REMAINING = Gauge(
    "holdfast_zendesk_calls_remaining",
    "Remaining calls in this minute, by Zendesk's last answer",
    multiprocess_mode="livemin",
)
# ── the back-fill
BACKFILL_EMAILS = Counter(
    "holdfast_backfill_emails_total",
    "E-mails by what a back-fill did: found in Zendesk, or added because no webhook announced them",
    ["outcome"],
)
for _outcome in ("found", "added"):
    BACKFILL_EMAILS.labels(_outcome)
BACKFILL_RUNS = Counter("holdfast_backfill_runs_total", "Back-fills by outcome", ["outcome"])
for _outcome in ("done", "failed"):
    BACKFILL_RUNS.labels(_outcome)
BACKFILL_TICKETS = Counter(
    "holdfast_backfill_tickets_total",
    "Tickets whose comments a back-fill read, skipped because they are gone, or was refused by Zendesk",
    ["outcome"],
)
for _outcome in ("read", "skipped", "refused"):
    BACKFILL_TICKETS.labels(_outcome)
SUSPENDED_EMAILS = Counter("holdfast_suspended_emails_total", "Suspended e-mails of Zendesk that were kept")
# ── custody
EMAILS_REMOVED = Counter("holdfast_emails_removed_total", "Removed e-mails by purge and erasure", ["kind"])
for _kind in ("purge", "erasure"):
    EMAILS_REMOVED.labels(_kind)
OBJECTS_REMOVED = Counter("holdfast_objects_removed_total", "Removals of objects by outcome", ["outcome"])
for _outcome in ("removed", "locked", "failed"):
    OBJECTS_REMOVED.labels(_outcome)
DELETIONS_SENT = Counter(
    "holdfast_deletions_sent_total",
    "Documents of removed e-mails that targets were told of, by outcome",
    ["outcome"],
)
for _outcome in ("sent", "failed"):
    DELETIONS_SENT.labels(_outcome)
# ── alerts
ALERTS = Counter("holdfast_alerts_total", "Alerts opened", ["cause"])
ALERT_DELIVERIES = Counter(
    "holdfast_alert_deliveries_total",
    "Deliveries of alerts by outcome; failed: given up after a day",
    ["channel", "outcome"],
)

# Sets of labels that are closed: more of them become `other`. All codes of ours fit; a type is a stranger's word.
MAX_CODES = 300
MAX_EVENT_TYPES = 50

_codes: set[str] = {""}
_types: set[str] = set()


def registry() -> CollectorRegistry:
    """Return the registry of this process, or of all web processes where several count together."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def forget_process(pid: int) -> None:
    """Remove the gauges of a process that died, where several count together."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        with suppress(FileNotFoundError):  # the directory was removed
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def code_label(code: str | None) -> str:
    """Return the label of an error's code: the first MAX_CODES codes, then `other`."""
    return _bounded(_codes, code or "", MAX_CODES)


def event_type_label(event_type: str) -> str:
    """Return the label of an event type: the first MAX_EVENT_TYPES types, then `other`."""
    return _bounded(_types, event_type[:100], MAX_EVENT_TYPES)


def _bounded(known: set[str], value: str, most: int) -> str:
    if value not in known and len(known) < most:
        known.add(value)
    return value if value in known else "other"
