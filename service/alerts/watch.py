"""Watch for alerts in every process: one process at a time looks, and each sends due deliveries."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import structlog

from service.alerts import record, restored
from service.alerts.causes import find_conditions
from service.alerts.channels import channel_names
from service.alerts.evidence_mail import mail_heads_for_ever
from service.alerts.send import deliver_for_ever
from service.errors import Transient
from service.postgres.engine import pool_of, run
from service.resources import Resources, background
from service.telemetry.metrics import ALERT_DELIVERIES, ALERTS

WATCH_SECONDS = 10.0
# Shorter than a turn, and long enough for a slow Postgres, because then alerts matter most.
LOOK_SECONDS = 10.0

log = structlog.get_logger()


@asynccontextmanager
async def alerting(res: Resources) -> AsyncIterator[None]:
    """Watch for alerts and send deliveries while the block runs."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(background(lambda: watch(res)))
        for channel in channel_names(res.settings):
            await stack.enter_async_context(background(_delivering(res, channel)))
        if "mail" in channel_names(res.settings):
            await stack.enter_async_context(background(lambda: mail_heads_for_ever(res)))
        yield


async def watch(res: Resources) -> None:
    """Look regularly until cancelled."""
    while True:
        await asyncio.sleep(WATCH_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 no secret
        try:
            await record_bad_signatures(res)
            await look_once(res)
        except Transient as exc:
            log.warning("alerts_not_watched", code=exc.code)


async def record_bad_signatures(res: Resources) -> None:
    """Save this process's streak of bad signatures; requests with bad signatures themselves write nothing."""
    streak = res.bad_signatures
    length, code, ago = streak.length, streak.code, timedelta(seconds=streak.age)
    is_alarming = streak.is_alarming and length >= res.settings.alert_signature_failures
    if is_alarming and length > streak.noted:
        streak.noted = length
        try:
            await res.run(lambda conn: record.save_bad_signatures(conn, length, code, ago))
        except Transient:
            streak.noted = 0
            raise


async def look_once(res: Resources) -> bool:
    """Look for conditions and record alerts, if this process gets the turn; return whether it did."""
    turn = await res.run(record.begin)
    if turn is None:
        return False
    mark = await restored.read_mark(res)
    opened = await res.run(record.open_alerts)
    refused = pool_of(res.engine).was_refused
    conditions = await run(
        res.engine,
        LOOK_SECONDS,
        lambda conn: find_conditions(conn, res.settings, turn, opened, refused=refused),
    )
    older = await res.run(lambda conn: restored.find_older(conn, mark))
    conditions += [older] if older else await res.run(lambda conn: restored.find_open(conn, opened))
    channels = channel_names(res.settings)
    for cause in await res.run(lambda conn: record.save_conditions(conn, turn, conditions, channels)):
        ALERTS.labels(cause).inc()
        log.warning("alert_opened", cause=cause)
    for cause in await res.run(lambda conn: record.resolve(conn, turn)):
        log.info("alert_resolved", cause=cause)
    for channel in await res.run(record.give_up):
        ALERT_DELIVERIES.labels(channel, "failed").inc()
        log.error("alert_given_up", channel=channel)
    if older is None or (older.cause, older.key) in opened:  # else the alert may not be saved yet
        newest = await res.run(restored.newest)
        if newest and newest != mark:
            await restored.set_mark(res, newest)
    return True


def _delivering(res: Resources, channel: str) -> Callable[[], Awaitable[None]]:
    return lambda: deliver_for_ever(res, channel)
