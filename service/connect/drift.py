"""Drift: changes at Zendesk to our webhook and trigger, and signs that they do not do their work.

One worker checks once an hour; `holdfast check` and `holdfast connect --repair` end a drift earlier.
"""

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from service.connect import calls, record
from service.connect.arrivals import newest_webhook
from service.connect.record import TEST_EVENT, RecordedConnection
from service.errors import HoldfastError, Transient
from service.formatting import counted, duration
from service.resources import Resources
from service.zendesk.client import ZendeskClient
from service.zendesk.invocations import ListedInvocation, names_comment, shown_comment
from service.zendesk.rules import Drift, offers_matter, trigger_drift, wanted_clauses, webhook_drift

# The pause between two looks whether the hourly check is due.
LOOK_SECONDS = 60.0
# Older invocations say nothing about the present.
RECENT = timedelta(hours=1)
# Failed invocations from which the share is reported: half of a few, or a twentieth of many.
FEW = 20
# A delivered webhook is saved at once; the rest is for clocks that differ.
MOST_DELAY = timedelta(minutes=10)
# Newest invocations whose bodies are looked at: a change without a comment has none.
BODIES = 3

log = structlog.get_logger()


async def watch_for_ever(res: Resources) -> None:
    """Check for drift each time it is due, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 no secret
        try:
            await check_when_due(res)
        except HoldfastError as exc:
            log.warning("drift_not_checked", code=exc.code)


async def check_when_due(res: Resources) -> bool:
    """Check for drift if this process gets the turn; return whether it did. Raises as `check` does."""
    if not res.zendesk.has_login:
        return False
    account = record.account_of(res)
    connection = await res.run(lambda conn: record.take_turn(conn, account))
    if connection is None:
        return False
    await check(res, connection)
    return True


async def check(res: Resources, connection: RecordedConnection) -> Sequence[Drift]:
    """Ask Zendesk, and save and return the drift; raises Transient and Permanent if Zendesk does not tell."""
    try:
        drift = await find(res, connection)
    except HoldfastError as exc:
        code, may_pass = exc.code, isinstance(exc, Transient)
        await res.run(lambda conn: record.save_failure(conn, connection, code, may_pass=may_pass))
        raise
    await res.run(lambda conn: record.save_check(conn, connection, drift))
    known = {each.code for each in connection.drift}
    for each in drift:
        if each.code not in known:
            log.warning("drift_found", code=each.code)
    return drift


async def find(res: Resources, connection: RecordedConnection) -> Sequence[Drift]:
    """Return the drift of a connection, with at most seven calls: during a backlog they do not wait for those of e-mails."""
    client, webhook_id = res.zendesk.urgent(), connection.webhook_id
    webhook = await calls.show_webhook(client, webhook_id)
    drift = webhook_drift(webhook, connection.endpoint)
    trigger = await calls.show_trigger(client, connection.trigger_id)
    matters = trigger is not None and connection.condition == "mail" and offers_matter(trigger)
    offered = await calls.show_offered_channels(client) if matters else None
    clauses, _ = wanted_clauses(connection.condition, offered)
    drift += trigger_drift(trigger, webhook_id, clauses)
    if webhook is not None:
        try:
            await _look_at_invocations(res, client, connection, drift)
        except HoldfastError as exc:
            if not drift:
                raise
            # The drift found so far is certain.
            log.warning("invocations_not_checked", code=exc.code)
    return drift


async def _look_at_invocations(
    res: Resources, client: ZendeskClient, connection: RecordedConnection, drift: list[Drift]
) -> None:
    """Add the facts of the newest invocations."""
    invocations = await calls.list_invocations(client, connection.webhook_id)
    # What was sent before a repair says nothing about the present.
    since = max(connection.now - RECENT, connection.connected_at)
    drift += failures([each for each in invocations if each.completed_at >= since])
    delivered = [
        each for each in invocations if each.is_delivered and each.completed_at >= connection.connected_at
    ]
    if delivered:
        drift += missing_delivery(delivered[0], await res.run(newest_webhook))
        drift += await _find_bad_body(client, connection.webhook_id, delivered[:BODIES])


def failures(invocations: Sequence[ListedInvocation]) -> list[Drift]:
    """Report invocations that failed, and Zendesk's circuit breaker."""
    failed = [each for each in invocations if each.has_failed]
    found = []
    if broken := [each for each in failed if each.is_broken]:
        text = (
            f"Zendesk's circuit breaker dropped {counted(len(broken), 'webhook')} within an hour:"
            " too many had failed before."
        )
        found.append(Drift("circuit_breaker", text))
    share = len(failed) / len(invocations) if invocations else 0
    if share >= (0.05 if len(invocations) >= FEW else 0.5):
        text = (
            f"{len(failed)} of the newest {counted(len(invocations), 'webhook')} failed within an hour: Zendesk got no 2xx"
            " from the address."
        )
        found.append(Drift("invocations_failed", text))
    return found


def missing_delivery(delivered: ListedInvocation, newest: datetime | None) -> list[Drift]:
    """Report a delivered webhook that is newer than all that we have."""
    if newest is not None and delivered.completed_at - newest <= MOST_DELAY:
        return []
    last = (
        "none is here"
        if newest is None
        else f"the newest one here is {duration(delivered.completed_at - newest)} older"
    )
    text = (
        f"Zendesk delivered a webhook at {delivered.completed_at:%Y-%m-%d %H:%M} UTC, but {last}:"
        " another program may answer at the address."
    )
    return [Drift("delivered_elsewhere", text)]


async def _find_bad_body(
    client: ZendeskClient, webhook_id: str, delivered: Sequence[ListedInvocation]
) -> Sequence[Drift]:
    """Report bodies whose placeholder of the comment did not become a number, if that is so in all of them."""
    shown = ""
    for each in delivered:
        body = await calls.show_sent_body(client, webhook_id, each.id)
        if body is None or TEST_EVENT in body:
            continue
        if names_comment(body):
            return []
        shown = shown or shown_comment(body)
    if not shown:
        return []
    return [Drift("body_without_comment", f"The newest webhooks name no comment: comment_id is {shown}.")]


def describe(drift: Sequence[Drift]) -> str:
    """Write drift in one line."""
    return " ".join(each.text for each in drift)
