"""A budget of calls, in SQL and in numbers; without the imports that only the calls need.

https://developer.zendesk.com/api-reference/introduction/rate-limits/
"""

from collections.abc import Mapping
from typing import NamedTuple

from yarl import URL

# For an account that does not tell its limit, in calls per minute: only its own pauses bound the calls.
UNTOLD_LIMIT = 1_000_000
WINDOW_SECONDS = 60
MOST_PAUSE_SECONDS = 600
# Calls are spread over the rest of Zendesk's minute once fewer than one in so many of it are left.
FEW_LEFT = 4
# What is left is noted a little earlier: calls are under way when an answer tells it.
NEARLY_FEW = 2
# One call in so many of Zendesk's minute is never used: people and other programs need some.
LEFT_TO_OTHERS = 50
_FIRST_SECONDS = 10

# Of a number and of an endpoint's header; others are not Zendesk's.
_MOST_DIGITS = 9
_MOST_FIELDS = 8

# The calls per minute that all workers may make.
BUDGET = f"greatest(1, coalesce(calls_per_minute, {UNTOLD_LIMIT}) * :percent / 100)"
# A window that ends later than any pause is from before the database's clock was set back.
IS_OPEN = f"window_ends_at > at AND window_ends_at <= at + interval '{MOST_PAUSE_SECONDS} seconds'"

# Whether calls are left of the budget's minute.
HAS_ROOM = f"(NOT ({IS_OPEN}) OR used < {BUDGET})"
# Zendesk's minute of the last answer; one that ends later is from before the database's clock was set back.
IS_CURRENT = f"coalesce(resets_at > at AND resets_at <= at + interval '{WINDOW_SECONDS} seconds', false)"
# Whether so few calls are left in it that they are spread.
IS_PACED = f"({IS_CURRENT} AND calls_left * {FEW_LEFT} < calls_per_minute)"

# Whether the budget is used up soon: more than half of it will be by the end of its minute, as far as its first seconds tell.
IS_BUSY = f"""({IS_PACED} OR {IS_OPEN} AND used > {BUDGET} / 2.0 / {WINDOW_SECONDS}
    * greatest({_FIRST_SECONDS}, {WINDOW_SECONDS} - extract(epoch FROM window_ends_at - at)))"""
# Whether there was neither a pace in the last minute nor a reason for one in this.
PACE_ENDS = f"paced_since IS NOT NULL AND resets_at + interval '{WINDOW_SECONDS} seconds' <= at"


class CallsLeft(NamedTuple):
    """What an answer tells of a rate limit: calls a minute, those that are left of this minute, seconds to its end."""

    limit: int
    remaining: int
    seconds: int


def read_limit(headers: Mapping[str, str]) -> int | None:
    """Read the account's rate limit; None where the headers do not tell it, or contradict each other."""
    told = {_number(headers.get(name)) for name in ("ratelimit-limit", "X-Rate-Limit")} - {None}
    return told.pop() if len(told) == 1 else None


def read_calls_left(headers: Mapping[str, str]) -> CallsLeft | None:
    """Read how many calls the account has left; None where the headers do not tell, or contradict each other."""
    told = [_number(headers.get(name)) for name in ("ratelimit-remaining", "X-Rate-Limit-Remaining")]
    remaining = min((number for number in told if number is not None), default=None)
    return _calls_left(read_limit(headers), remaining, _number(headers.get("ratelimit-reset")))


def read_calls_left_of(endpoint: str, headers: Mapping[str, str]) -> CallsLeft | None:
    """Read the same of an endpoint with a rate limit of its own, such as "incremental-exports"."""
    fields: dict[str, int | None] = {}
    for part in headers.get(f"zendesk-ratelimit-{endpoint}", "").split(";")[:_MOST_FIELDS]:
        name, _, value = part.partition("=")
        fields[name.strip()] = _number(value)
    return _calls_left(fields.get("total"), fields.get("remaining"), fields.get("resets"))


def key_of(url: URL) -> str:
    """Return the key of an account's row: its host, and a port that is not the usual one."""
    host = (url.raw_host or "").lower()
    return host if url.is_default_port() else f"{host}:{url.port}"


def budget_of(limit: int | None, percent: int) -> int:
    """Return the calls per minute that all workers may make, as BUDGET does in SQL; None is a limit that was not told."""
    return max(1, (UNTOLD_LIMIT if limit is None else limit) * percent // 100)


def _calls_left(limit: int | None, remaining: int | None, seconds: int | None) -> CallsLeft | None:
    if limit is None or remaining is None or seconds is None:
        return None
    is_likely = limit > 0 and remaining <= limit and 0 < seconds <= MOST_PAUSE_SECONDS
    return CallsLeft(limit, remaining, min(seconds, WINDOW_SECONDS)) if is_likely else None


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None
