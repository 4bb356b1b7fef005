"""The verdict of a drill, in words and figures."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rich.text import Text

from service.local.drill.audit import Findings
from service.local.drill.ledger import Ledger

_MOST_LINES = 20


@dataclass(frozen=True)
class Verdict:
    good: bool
    text: Text


def verdict(about: str, ledger: Ledger, findings: Findings, drained: float) -> Verdict:
    """Judge a drill; `drained` is how many seconds it took until nothing was unfinished."""
    text = Text("\n")
    faults = Counter(injury.fault for injury in ledger.injuries)
    text.append(f"  {about}: {faults.total()} faults of {len(faults)} kinds\n\n", style="bold")
    for name, value in _figures(ledger, findings, drained).items():
        text.append(f"  {name:<17}", style="bold")
        text.append(f"{value}\n")
    text.append("\n")
    for kind, problems in _problems(findings).items():
        text.append(f"  {kind:<17}", style="bold")
        text.append(f"{len(problems)}\n", style="bold red" if problems else "bold green")
        for problem in problems[:_MOST_LINES]:
            text.append(f"      {problem}\n", style="red")
    word = "Nothing was lost." if findings.good else "The promise was broken."
    text.append(f"\n  {word}\n", style="bold green" if findings.good else "bold red")
    return Verdict(findings.good, text)


def _figures(ledger: Ledger, findings: Findings, drained: float) -> Mapping[str, str]:
    sends = sum(webhook.sends for webhook in ledger.webhooks.values())
    known, unknown = ledger.count("refused"), ledger.count("unknown")
    slowest = sorted(findings.recoveries.items(), key=lambda pair: -pair[1])[:3]
    outcomes = findings.outcomes
    return {
        "sent": f"{len(ledger.webhooks):,} webhooks, {sends:,} times",
        "acknowledged": f"{ledger.count('ok'):,}; refused {known}, unknown {unknown}"
        f" (of which {findings.unacknowledged} on record)",
        "stored": f"{findings.files:,} files in {findings.objects:,} objects, {findings.object_bytes / 1e6:.0f} MB",
        "completed": f"{findings.emails['completed']:,}",
        "failed": f"{findings.emails['failed']:,}  {_counts(findings.failed)}",
        "quarantined": f"{findings.quarantined:,}",
        "attempts": _counts(outcomes),
        "drained in": f"{drained:.1f} s; the longest e-mail took {findings.longest_wait:.1f} s",
        "longest recovery": ", ".join(f"{seconds:.1f} s after {fault}" for fault, seconds in slowest),
    }


def _problems(findings: Findings) -> Mapping[str, list[str]]:
    return {
        "lost": findings.lost,
        "duplicated": findings.doubled,
        "wrong bytes": findings.wrong_bytes,
        "broken otherwise": findings.broken,
    }


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counter.most_common())
