"""How fast the sync was, and that what comes before it did not wait for it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from service.local.drill.findings import Findings, Row
from service.local.drill.ledger import Injury

# What keeps documents away from a target for some time, while everybody else is as well as before.
_AWAY = frozenset({"target.away", "target.slow", "target.frozen"})


def measure(findings: Findings, injuries: Sequence[Injury], emails: Sequence[Row]) -> None:
    """See how long each sync took, how soon one came through after a fault, and how jobs fared during them."""
    spans = [
        (email["completed_at"].timestamp(), email["synced_at"].timestamp())
        for email in emails
        if email["completed_at"] and email["synced_at"]
    ]
    findings.longest_sync = max((end - start for start, end in spans), default=0)
    findings.sync_recoveries = _recoveries(injuries, spans)
    findings.waits = {
        is_away: (len(waits), median(waits))
        for is_away in (True, False)
        if (waits := [*_waits(injuries, emails, is_away=is_away)])
    }


def _recoveries(injuries: Sequence[Injury], spans: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Give the seconds from the end of a fault to the first document of a job that ended after it."""
    longest: dict[str, float] = defaultdict(float)
    for injury in injuries:
        over = injury.ended or injury.began
        after = [end - over for start, end in spans if start >= over]
        if injury.hurt and injury.fault.startswith("target.") and after:
            longest[injury.fault] = max(longest[injury.fault], min(after))
    return longest


def _waits(injuries: Sequence[Injury], emails: Sequence[Row], *, is_away: bool) -> Iterator[float]:
    """Give the seconds from webhook to `completed`, of e-mails that came while a target was away, or was not."""
    times = [
        (injury.began, injury.ended)
        for injury in injuries
        if injury.hurt and injury.ended and injury.fault in _AWAY
    ]
    for email in emails:
        if email["processing_status"] == "completed" and email["completed_at"]:
            came = email["received_at"].timestamp()
            if any(began <= came <= ended for began, ended in times) is is_away:
                yield email["completed_at"].timestamp() - came
