"""Send the deliveries that are due, each channel by itself: a channel that is down delays no other."""

import asyncio
import random
from functools import partial

import structlog

from service.alerts import channels, deliveries
from service.alerts.deliveries import MAX_PAUSE, pause_after
from service.alerts.message import compose
from service.errors import HoldfastError, Transient
from service.faultpoints import reach
from service.resources import Resources
from service.telemetry.metrics import ALERT_DELIVERIES

LOOK_SECONDS = 5.0

log = structlog.get_logger()


async def deliver(res: Resources, channel: str) -> bool:
    """Send the delivery that has been due longest on this channel; False if none is due."""
    delivery = await res.run(lambda conn: deliveries.claim(conn, channel))
    if delivery is None:
        return False
    names = {"alert": delivery.alert_id, "news": delivery.news, "channel": channel}
    try:
        remark = await channels.send(res.settings, channel, compose(delivery, res.settings.public_url))
        reach(res.settings.fault_points, "after_alert_sent")
        outcome, record = "sent", partial(deliveries.record_sent, delivery=delivery, remark=remark)
        log.info("alert_sent", **names, remark=remark)
    except HoldfastError as exc:
        # Permanent errors are retried as well, at the longest pause: somebody may correct the setting within the day.
        pause = pause_after(delivery.attempt, exc.retry_after) if isinstance(exc, Transient) else MAX_PAUSE
        error = f"{exc.code}: {exc.message}"
        outcome, record = "put_off", partial(deliveries.postpone, delivery=delivery, error=error, pause=pause)
        log.warning("alert_not_sent", **names, code=exc.code, error=exc.message)
    await res.insist(record)
    ALERT_DELIVERIES.labels(channel, outcome).inc()
    return True


async def deliver_for_ever(res: Resources, channel: str) -> None:
    """Send due deliveries until cancelled."""
    while True:
        try:
            more = await deliver(res, channel)
        except Transient as exc:
            log.warning("alert_deliveries_not_read", code=exc.code)
            more = False
        if not more:
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 no secret
