"""Failed e-mails: one alert per error and host, with a limit of hosts per error."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Integer, Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import Condition, OpenAlerts, clean, number
from service.postgres.email_tables import OPEN_FAILED
from service.postgres.failure_groups import WITH_KINDS

# Older failures cause no alert: a first start may find years of them.
RECENT = timedelta(days=1)
# An e-mail may have waited through an outage before it failed. Older ones fail only after a retry by a person.
RECEIVED = timedelta(days=7)
MAX_PER_GROUP = 1000
# Hosts of one error with alerts of their own; senders can make up any number of host names.
MAX_HOSTS = 10

_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,100}")


@dataclass(frozen=True)
class FailedGroup:
    """Recently failed e-mails with the same error and host; the example is a recent one."""

    code: str
    host: str
    count: int
    email_id: int
    reason: str


async def find(conn: AsyncConnection, opened: OpenAlerts) -> list[Condition]:
    """Report errors of e-mails that failed within a day, and that nobody has retried or dismissed."""
    return group([FailedGroup(*row) for row in await conn.execute(_GROUPS)], opened)


def group(groups: Iterable[FailedGroup], opened: OpenAlerts) -> list[Condition]:
    """Make one condition per group; hosts of an error beyond MAX_HOSTS share one."""
    by_code: dict[str, list[FailedGroup]] = defaultdict(list)
    for each in groups:
        by_code[each.code].append(each)
    conditions = {}
    for code, hosts in by_code.items():
        # Groups with an open alert come first, or their alerts would be resolved.
        own = sorted(hosts, key=lambda each: (("failures", _key(each)) not in opened, -each.count))
        for each in own[:MAX_HOSTS]:
            conditions[_key(each)] = _condition(_key(each), _place(each.host), [each])
        if more := own[MAX_HOSTS:]:
            conditions[f"{code}@*"] = _condition(f"{code}@*", f" at {len(more)} more hosts", more)
    return [*conditions.values()]


def _key(group: FailedGroup) -> str:
    return f"{group.code}@{group.host}"[:300]


def _place(host: str) -> str:
    return f" at {host if _HOST.fullmatch(host) else 'a host with a strange name'}" if host else ""


def _condition(key: str, place: str, groups: Sequence[FailedGroup]) -> Condition:
    first, count = groups[0], sum(each.count for each in groups)
    what = f"{clean(first.code, 50) or 'an unknown error'}{place}"
    some = "" if count < MAX_PER_GROUP else " or more"
    detail = (
        f"{number(count, 'e-mail')}{some} of the last {RECENT.days * 24} hours failed with {what}.\n"
        f"For example e-mail {first.email_id}: {clean(first.reason)}"
    )
    return Condition("failures", key, count, f"E-mails fail with {what}", detail, first.email_id)


# It reads the newest e-mails of each group. The limit in a subquery is unknown to the planner, so it scans the index in
# order.
_GROUPS = text(f"""
{WITH_KINDS}
SELECT kind.code, kind.host, recent.count, recent.email_id, coalesce(
    (SELECT processing_error FROM incoming_emails WHERE id = recent.email_id), 'no reason recorded'
) AS reason
FROM kind CROSS JOIN LATERAL (
    SELECT count(*) AS count, max(id) AS email_id FROM (
        SELECT id, completed_at FROM incoming_emails
        WHERE {OPEN_FAILED}
            AND coalesce(error_code, '') = kind.code AND coalesce(error_host, '') = kind.host
            AND received_at > now() - :received
        ORDER BY received_at DESC, id DESC LIMIT (SELECT :most)
    ) AS newest
    WHERE completed_at > now() - :recent
) AS recent
WHERE recent.count > 0
""").bindparams(  # noqa: S608 words of ours
    bindparam("most", MAX_PER_GROUP, Integer()),
    bindparam("received", RECEIVED, Interval()),
    bindparam("recent", RECENT, Interval()),
)
