"""E-mails that failed for good: one alert for each error and host, and not one for each host of a thousand."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Integer, Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import Condition, OpenAlerts, clean, number

# What failed longer ago is no news: at the first start of alerts there may be years of it.
RECENT = timedelta(days=1)
# An e-mail may have waited through an outage before it failed; what came before that, somebody has retried by hand.
RECEIVED = timedelta(days=7)
MOST_GROUPS = 1000
MOST_OF_A_GROUP = 1000
# Hosts of one error that have alerts of their own; a sender may make up as many names as he likes.
MOST_HOSTS = 10

_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,100}")


@dataclass(frozen=True)
class FailedGroup:
    """The e-mails that failed lately with one error and one host; the example is among the newest."""

    code: str
    host: str
    count: int
    email_id: int
    reason: str


async def find(conn: AsyncConnection, opened: OpenAlerts) -> list[Condition]:
    """Find the errors with which e-mails failed within a day, and that nobody has retried since."""
    return group([FailedGroup(*row) for row in await conn.execute(_GROUPS)], opened)


def group(groups: Iterable[FailedGroup], opened: OpenAlerts) -> list[Condition]:
    """Make one finding of each group; the hosts of an error beyond MOST_HOSTS share one."""
    by_code: dict[str, list[FailedGroup]] = defaultdict(list)
    for each in groups:
        by_code[each.code].append(each)
    conditions = {}
    for code, hosts in by_code.items():
        # Who has an alert keeps it, or it would be announced as over.
        own = sorted(hosts, key=lambda each: (("failures", _key(each)) not in opened, -each.count))
        for each in own[:MOST_HOSTS]:
            conditions[_key(each)] = _finding(_key(each), _place(each.host), [each])
        if more := own[MOST_HOSTS:]:
            conditions[f"{code}@*"] = _finding(f"{code}@*", f" at {len(more)} more hosts", more)
    return [*conditions.values()]


def _key(group: FailedGroup) -> str:
    return f"{group.code}@{group.host}"[:300]


def _place(host: str) -> str:
    return f" at {host if _HOST.fullmatch(host) else 'a host with a strange name'}" if host else ""


def _finding(key: str, place: str, groups: Sequence[FailedGroup]) -> Condition:
    first, count = groups[0], sum(each.count for each in groups)
    what = f"{clean(first.code, 50) or 'an unknown error'}{place}"
    some = "" if count < MOST_OF_A_GROUP else " or more"
    detail = (
        f"{number(count, 'e-mail')}{some} of the last {RECENT.days * 24} hours failed for good with {what}.\n"
        f"For example e-mail {first.email_id}: {clean(first.reason)}"
    )
    return Condition("failures", key, count, f"E-mails fail with {what}", detail, first.email_id)


# From one group to the next, without reading what lies between; of each its newest. An e-mail is there as long
# as it is failed: who retries it takes it out. A limit that the planner does not know makes it walk the index,
# whatever it believes to be there.
_GROUPS = text("""
WITH RECURSIVE kind AS (
    (
        SELECT coalesce(error_code, '') AS code, coalesce(error_host, '') AS host, 1 AS place
        FROM incoming_emails WHERE processing_status = 'failed'
        ORDER BY coalesce(error_code, ''), coalesce(error_host, '') LIMIT 1
    )
    UNION ALL
    SELECT next.code, next.host, kind.place + 1
    FROM kind CROSS JOIN LATERAL (
        SELECT coalesce(error_code, '') AS code, coalesce(error_host, '') AS host
        FROM incoming_emails
        WHERE processing_status = 'failed'
            AND (coalesce(error_code, ''), coalesce(error_host, '')) > (kind.code, kind.host)
        ORDER BY coalesce(error_code, ''), coalesce(error_host, '') LIMIT 1
    ) AS next
    WHERE kind.place < :groups
)
SELECT kind.code, kind.host, recent.count, recent.email_id, coalesce(
    (SELECT processing_error FROM incoming_emails WHERE id = recent.email_id), 'no reason is on record'
) AS reason
FROM kind CROSS JOIN LATERAL (
    SELECT count(*) AS count, max(id) AS email_id FROM (
        SELECT id, completed_at FROM incoming_emails
        WHERE processing_status = 'failed'
            AND coalesce(error_code, '') = kind.code AND coalesce(error_host, '') = kind.host
            AND received_at > now() - :received
        ORDER BY received_at DESC, id DESC LIMIT (SELECT :most)
    ) AS newest
    WHERE completed_at > now() - :recent
) AS recent
WHERE recent.count > 0
""").bindparams(
    bindparam("groups", MOST_GROUPS, Integer()),
    bindparam("most", MOST_OF_A_GROUP, Integer()),
    bindparam("received", RECEIVED, Interval()),
    bindparam("recent", RECENT, Interval()),
)
