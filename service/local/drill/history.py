"""What the row of an e-mail and those of its attempts have to say of each other."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from service.local.drill.findings import Row

# How the last attempt ends, by the state that it leaves the job in; the others give it back.
_LAST = {"completed": {"completed"}, "failed": {"failed", "abandoned"}}
_GIVEN_BACK = {"released", "abandoned", "handed_back"}


def wrong(email: Row, attempts: Sequence[Row]) -> Iterator[str]:
    """Name each invariant of the state machine that an e-mail breaks, now that all is drained."""
    status, lease = email["processing_status"], email["lease_until"]
    if status not in _LAST:
        yield f"it is {status} in the end, lease until {lease}"
        return
    outcomes = [attempt["outcome"] for attempt in attempts]
    if not _LAST[status].intersection(outcomes[-1:]):
        yield f"it is {status}, its attempts ended as {outcomes}"
    if not _GIVEN_BACK.issuperset(outcomes[:-1]):
        yield f"it was run again, its attempts ended as {outcomes}"
    numbers = [attempt["number"] for attempt in attempts]
    if numbers != list(range(1, email["attempt_number"] + 1)):
        yield f"attempt_number is {email['attempt_number']}, its attempts are numbered {numbers}"
    if email["retry_count"] != outcomes[:-1].count("released"):
        yield f"retry_count is {email['retry_count']}, its attempts ended as {outcomes}"
    if status == "failed" and not (email["error_code"] and email["processing_error"]):
        yield "it failed without a reason"
    if lease is not None:
        yield f"it is {status}, and has a lease until {lease}"
    yield from _wrong_times(email, attempts)


def told(attempt: Row) -> str:
    """Tell an attempt in some words."""
    times = _shown([attempt["started_at"], attempt["finished_at"]])
    return f"{attempt['outcome']} {attempt['error_code'] or ''} ({attempt['worker']}, {times})"


def _wrong_times(email: Row, attempts: Sequence[Row]) -> Iterator[str]:
    times = [email["received_at"], email["started_at"], email["completed_at"]]
    if not _in_order(times):
        yield f"it was received, started, completed at {_shown(times)}"
        return
    runs = [time for attempt in attempts for time in (attempt["started_at"], attempt["finished_at"])]
    if not _in_order([email["received_at"], *runs]) or runs[-2:] != times[1:]:
        yield f"it was started and completed at {_shown(times[1:])}, its attempts ran at {_shown(runs)}"


def _in_order(times: Sequence[datetime | None]) -> bool:
    known = [time for time in times if time is not None]
    return len(known) == len(times) and known == sorted(known)


def _shown(times: Sequence[datetime | None]) -> str:
    return ", ".join(f"{time:%H:%M:%S.%f}" if time else "never" for time in times)
