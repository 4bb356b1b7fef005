"""The verdict of a drill, in words and figures."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import fill

from rich.text import Text

from service.local.drill.findings import Findings
from service.local.drill.ledger import Ledger

_MOST_LINES = 20
_INDENTED = f"\n{' ':20}"


@dataclass(frozen=True)
class Verdict:
    good: bool
    text: Text


def verdict(about: str, ledger: Ledger, findings: Findings, drained: float, width: int) -> Verdict:
    """Judge a drill, in lines of this width; `drained` is how many seconds it took until nothing was unfinished."""
    text = Text("\n")
    text.append(f"  {about}\n\n", style="bold")
    for name, value in [*_faults(ledger), *_figures(ledger, findings, drained)]:
        text.append(f"  {name:<18}", style="bold" if name.strip() == name else "dim")
        text.append(f"{fill(value, max(40, width - 20)).replace(chr(10), _INDENTED)}\n")
    text.append("\n")
    for kind, (meaning, problems) in _problems(findings).items():
        text.append(f"  {kind:<18}", style="bold")
        text.append(f"{len(problems):<4,}", style="bold red" if problems else "bold green")
        text.append(f" {meaning}\n", style="dim")
        for problem in problems[:_MOST_LINES]:
            text.append(f"      {problem}\n", style="red")
        if len(problems) > _MOST_LINES:
            text.append(f"      and {len(problems) - _MOST_LINES:,} more\n", style="red")
    word = "Nothing was lost." if findings.good else "The promise was broken."
    text.append(f"\n  {word}\n", style="bold green" if findings.good else "bold red")
    return Verdict(findings.good, text)


def _faults(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Tell which faults there were, by the part that they hurt, and how often if not once."""
    hurt = Counter(injury.fault for injury in ledger.injuries if injury.hurt)
    yield "faults", f"{hurt.total():,} of {len(hurt)} kinds" if hurt else "none"
    parts: dict[str, list[str]] = defaultdict(list)
    for fault, times in sorted(hurt.items()):
        part, _, kind = fault.partition(".")
        parts[part].append(kind if times == 1 else f"{kind} {times} times")
    yield from ((f"  {part}", ", ".join(kinds)) for part, kinds in parts.items())
    if missed := {injury.fault for injury in ledger.injuries} - hurt.keys():
        yield "found no target", ", ".join(sorted(missed))


def _figures(ledger: Ledger, findings: Findings, drained: float) -> Iterator[tuple[str, str]]:
    sends = sum(webhook.sends for webhook in ledger.webhooks.values())
    taken = ledger.count("ok")
    yield "sent", f"{len(ledger.webhooks):,} webhooks, {sends:,} times, repeated as Zendesk repeats"
    yield "acknowledged", f"{taken:,}"
    on_record = f", as the sender knows; {findings.unacknowledged:,} are on record all the same"
    without = len(ledger.webhooks) - taken
    yield "not acknowledged", f"{without:,}{on_record if without else ''}"
    yield "e-mails completed", f"{findings.emails['completed']:,}"
    yield "e-mails failed", f"{findings.emails['failed']:,}{_counts(findings.failed)}"
    yield "in quarantine", f"{findings.quarantined:,}"
    yield (
        "files stored",
        f"{findings.files:,} in {findings.objects:,} objects, {findings.object_bytes / 1e6:.0f} MB",
    )
    yield "attempts", f"{findings.outcomes.total():,}{_counts(findings.outcomes)}"
    yield from _sync(findings)
    yield "drained in", f"{drained:.1f} s; the slowest e-mail took {findings.longest_wait:.1f} s"
    slowest = sorted(findings.recoveries.items(), key=lambda pair: -pair[1])[:3]
    if slowest:
        after = ", ".join(f"{seconds:.1f} s after {fault}" for fault, seconds in slowest)
        yield "recovery", f"a new e-mail was completed {after}"


def _sync(findings: Findings) -> Iterator[tuple[str, str]]:
    """Tell what came of carrying them over, where that was looked at."""
    if not findings.synced:
        return
    slowest = f"the slowest {findings.longest_sync:.1f} s after its job had ended"
    yield "synced", f"{findings.synced['synced']:,}; {slowest}"
    yield "sync failed", f"{findings.synced['failed']:,}{_counts(findings.sync_failed)}"
    collection = (
        "no collection" if findings.documents is None else f"{findings.documents:,} in the collection"
    )
    receiver = f"{findings.received:,} at the receiver, in {findings.messages:,} messages"
    yield "there, and equal", f"{collection}; {receiver}"
    recoveries = findings.sync_recoveries
    if recoveries:
        worst = max(recoveries, key=lambda fault: recoveries[fault])
        yield "sync's recovery", f"a new e-mail was in the targets {recoveries[worst]:.1f} s after {worst}"
    if True in findings.waits:
        waits = [
            f"{number:,} were completed in {seconds:.2f} s (median) {when}"
            for is_away, when in ((True, "while a target was away"), (False, "otherwise"))
            for number, seconds in [findings.waits.get(is_away, (0, 0.0))]
        ]
        yield "e-mails meanwhile", ", ".join(waits)


def _problems(findings: Findings) -> Mapping[str, tuple[str, list[str]]]:
    return {
        "lost": ("acknowledged, and e-mail, file or document is not there", findings.lost),
        "duplicated": (
            "one webhook became several e-mails, or documents",
            findings.doubled,
        ),
        "wrong bytes": (
            "kept or carried otherwise than it was sent or served",
            findings.wrong_bytes,
        ),
        "broken otherwise": ("a state, an attempt, a time, or something left behind", findings.broken),
    }


def _counts(counter: Counter[str]) -> str:
    counts = ", ".join(f"{name} {number:,}" for name, number in counter.most_common())
    return f": {counts}" if counts else ""
