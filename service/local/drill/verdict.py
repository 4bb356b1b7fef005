"""The result of the audits, and the verdict on a drill as text."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import Any

from rich.text import Text

from service.local.drill.ledger import Injection, Ledger

_MOST_LINES = 20
_INDENTED = f"\n{' ':20}"

Row = Mapping[str, Any]  # of a table


@dataclass
class AuditResult:
    """The problems that audits found, by heading, and the figures to show."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong_bytes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # any other invariant
    emails: Counter[str] = field(default_factory=Counter)  # by status
    failed: Counter[str] = field(default_factory=Counter)  # by code
    outcomes: Counter[str] = field(default_factory=Counter)  # of attempts
    quarantined: int = 0
    unacknowledged: int = 0  # rows whose sender received no 2xx
    kept: int = 0  # messages of e-mails that Zendesk's API shows
    originals: Counter[str] = field(default_factory=Counter)  # of messages, by their state
    requests: Mapping[str, int] = field(default_factory=dict)  # on record, by place
    merged: int = 0  # e-mails that became part of another one
    unannounced: int = 0  # e-mails without any webhook on record
    unheard: int = 0  # of these, e-mails of the tickets that `holdfast connect`'s trigger announces
    suspended: int = 0
    changed: int = 0  # e-mails marked by Zendesk's changes
    removed: int = 0  # e-mails that were erased or purged
    calls: Mapping[str, int] = field(default_factory=dict)  # to Zendesk's API, by endpoint
    files: int = 0
    objects: int = 0
    object_bytes: int = 0
    longest_wait: float = 0  # seconds from the webhook to the end of its job
    recoveries: Mapping[str, float] = field(default_factory=dict)  # by fault, as `recoveries` returns them
    synced: Counter[str] = field(default_factory=Counter)  # by status of the sync
    sync_failed: Counter[str] = field(default_factory=Counter)  # by code
    documents: int | None = None  # equal ones in the collection; None without a collection
    received: int = 0  # e-mails with an equal document at the receiver
    messages: int = 0  # that the receiver accepted, repetitions included
    longest_sync: float = 0  # seconds from the end of a job to that of its sync
    sync_recoveries: Mapping[str, float] = field(default_factory=dict)  # by fault of a target
    # During outages of targets (True) and outside: the number of completed e-mails, and their median seconds.
    waits: Mapping[bool, tuple[int, float]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong_bytes or self.broken)


@dataclass(frozen=True)
class Verdict:
    good: bool
    text: Text


def recoveries(injections: Sequence[Injection], spans: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return for each fault the longest time in seconds until a new e-mail got through.

    A time runs from the end of an injection to the first end of a span that begins later.
    """
    longest: dict[str, float] = defaultdict(float)
    for injection in injections:
        over = injection.ended or injection.began
        after = [end - over for start, end in spans if start >= over]
        if injection.had_effect and after:
            longest[injection.fault] = max(longest[injection.fault], min(after))
    return longest


def verdict(about: str, ledger: Ledger, result: AuditResult, drained: float, width: int) -> Verdict:
    """Judge a drill, in lines of this width; draining it took `drained` seconds."""
    text = Text("\n")
    text.append(f"  {about}\n\n", style="bold")
    for name, value in [*_faults(ledger), *_figures(ledger, result, drained)]:
        text.append(f"  {name:<18}", style="bold" if name.strip() == name else "dim")
        text.append(f"{fill(value, max(40, width - 20)).replace(chr(10), _INDENTED)}\n")
    text.append("\n")
    for kind, (meaning, problems) in _problems(result).items():
        text.append(f"  {kind:<18}", style="bold")
        text.append(f"{len(problems):<4,}", style="bold red" if problems else "bold green")
        text.append(f" {meaning}\n", style="dim")
        for problem in problems[:_MOST_LINES]:
            text.append(f"      {problem}\n", style="red")
        if len(problems) > _MOST_LINES:
            text.append(f"      and {len(problems) - _MOST_LINES:,} more\n", style="red")
    summary = "Nothing was lost." if result.good else "The promise was broken."
    text.append(f"\n  {summary}\n", style="bold green" if result.good else "bold red")
    return Verdict(result.good, text)


def _faults(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Count the faults that had an effect, by the part that they harmed."""
    effective = Counter(injection.fault for injection in ledger.injections if injection.had_effect)
    yield "faults", f"{effective.total():,} of {len(effective)} kinds" if effective else "none"
    parts: dict[str, list[str]] = defaultdict(list)
    for fault, times in sorted(effective.items()):
        part, _, kind = fault.partition(".")
        parts[part].append(kind if times == 1 else f"{kind} {times} times")
    yield from ((f"  {part}", ", ".join(kinds)) for part, kinds in parts.items())
    if missed := {injection.fault for injection in ledger.injections} - effective.keys():
        yield "had no effect", ", ".join(sorted(missed))


def _figures(ledger: Ledger, result: AuditResult, drained: float) -> Iterator[tuple[str, str]]:
    sends = sum(webhook.sends for webhook in ledger.webhooks.values())
    acknowledged = ledger.count("ok")
    yield "sent", f"{len(ledger.webhooks):,} webhooks, {sends:,} times, repeated as Zendesk repeats"
    yield "acknowledged", f"{acknowledged:,}"
    missing = len(ledger.webhooks) - acknowledged
    saved = f", of these {result.unacknowledged:,} were saved all the same" if missing else ""
    yield "not acknowledged", f"{missing:,}{saved}"
    yield "e-mails completed", f"{result.emails['completed']:,}"
    yield "e-mails failed", f"{result.emails['failed']:,}{_counts(result.failed)}"
    yield from _message_figures(result)
    yield "in quarantine", f"{result.quarantined:,}"
    yield (
        "files stored",
        f"{result.files:,} in {result.objects:,} objects, {result.object_bytes / 1e6:.0f} MB",
    )
    yield "attempts", f"{result.outcomes.total():,}{_counts(result.outcomes)}"
    yield from _sync_figures(result)
    yield "drained in", f"{drained:.1f} s; the slowest e-mail took {result.longest_wait:.1f} s"
    slowest = sorted(result.recoveries.items(), key=lambda pair: -pair[1])[:3]
    if slowest:
        after = ", ".join(f"{seconds:.1f} s after {fault}" for fault, seconds in slowest)
        yield "recovery", f"a new e-mail was completed {after}"


def _message_figures(result: AuditResult) -> Iterator[tuple[str, str]]:
    """Return the figures of messages, or none if there were none."""
    if not result.kept:
        return
    originals = f"{result.originals['stored']:,} with the original"
    yield "messages", f"{result.kept:,}, {originals}; {result.merged:,} e-mails were merged"
    places = ", ".join(f"{number:,} {place}" for place, number in result.requests.items())
    yield "requests kept", places
    unheard = f"{result.unheard:,} of them while the connection was changed or lost webhooks"
    other = f"{result.suspended:,} suspended, {result.changed:,} changed in Zendesk"
    yield "without a webhook", f"{result.unannounced:,} e-mails were found, {unheard}; {other}"
    if result.removed:
        yield "removed", f"{result.removed:,} e-mails were erased or purged, and nothing is left of them"
    if result.calls:
        calls = ", ".join(f"{number:,} {name}" for name, number in result.calls.items())
        yield "calls to Zendesk", f"{sum(result.calls.values()) / result.kept:.2f} per message: {calls}"


def _sync_figures(result: AuditResult) -> Iterator[tuple[str, str]]:
    """Return the figures of the sync, or none if it was not audited."""
    if not result.synced:
        return
    slowest = f"the slowest {result.longest_sync:.1f} s after its job had ended"
    yield "synced", f"{result.synced['synced']:,}; {slowest}"
    yield "sync failed", f"{result.synced['failed']:,}{_counts(result.sync_failed)}"
    collection = "no collection" if result.documents is None else f"{result.documents:,} in the collection"
    receiver = f"{result.received:,} at the receiver, in {result.messages:,} messages"
    yield "equal documents", f"{collection}; {receiver}"
    if result.sync_recoveries:
        fault, seconds = max(result.sync_recoveries.items(), key=lambda pair: pair[1])
        yield "sync's recovery", f"a new e-mail was in the targets {seconds:.1f} s after {fault}"
    if True in result.waits:
        waits = [
            f"{number:,} were completed in {seconds:.2f} s (median) {when}"
            for is_away, when in ((True, "while a target was away"), (False, "otherwise"))
            for number, seconds in [result.waits.get(is_away, (0, 0.0))]
        ]
        yield "e-mails meanwhile", ", ".join(waits)


def _problems(result: AuditResult) -> Mapping[str, tuple[str, list[str]]]:
    return {
        "lost": ("acknowledged, but e-mail, file or document is missing", result.lost),
        "duplicated": ("webhooks with several e-mails or documents", result.doubled),
        "wrong bytes": ("contents that differ from those sent or served", result.wrong_bytes),
        "broken otherwise": ("states, attempts, times, and files left behind", result.broken),
    }


def _counts(counter: Counter[str]) -> str:
    counts = ", ".join(f"{name} {number:,}" for name, number in counter.most_common())
    return f": {counts}" if counts else ""
