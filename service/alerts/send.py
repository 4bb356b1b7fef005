"""Send what is due to be told, one channel beside the other; a channel that is lost holds up nothing else."""

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog

from service.alerts import deliveries, mail, signed, slack
from service.alerts.deliveries import MOST_PAUSE, pause_after
from service.alerts.mail import Envelope
from service.alerts.message import compose, trial
from service.alerts.notice import Notice
from service.config.settings import Settings
from service.errors import HoldfastError, Transient
from service.faultpoints import reach
from service.postgres.engine import insist, run
from service.resources import Resources
from service.telemetry.metrics import ALERT_DELIVERIES

LOOK_SECONDS = 5.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Tried:
    """What became of a test; `error` is None if it was taken."""

    channel: str
    error: str | None


def channels(settings: Settings) -> list[str]:
    """Name the channels that are set up."""
    on = {
        "mail": settings.alert_email_to,
        "slack": settings.alert_slack_url,
        "webhook": settings.alert_webhook_url,
    }
    return [channel for channel, address in on.items() if address]


async def try_channels(settings: Settings) -> list[Tried]:
    """Send a test to each channel that is set up, and say which of them took it."""
    notice = trial(datetime.now(UTC), settings.public_url)

    async def one(channel: str) -> Tried:
        try:
            return Tried(channel, await _send(settings, channel, notice))
        except HoldfastError as exc:
            return Tried(channel, f"{exc.code}: {exc.message}")

    return await asyncio.gather(*map(one, channels(settings)))


async def deliver(res: Resources, channel: str) -> bool:
    """Send the one that has been due for longest on this channel; False if there was none."""
    seconds = res.settings.database_seconds
    delivery = await run(res.engine, seconds, lambda conn: deliveries.take(conn, channel))
    if delivery is None:
        return False
    names = {"alert": delivery.alert_id, "news": delivery.news, "channel": channel}
    try:
        remark = await _send(res.settings, channel, compose(delivery, res.settings.public_url))
        reach(res.settings.fault_points, "after_alert_sent")
        outcome, note = "sent", partial(deliveries.note_sent, delivery=delivery, remark=remark)
        log.info("alert_sent", **names, remark=remark)
    except HoldfastError as exc:
        # Who must change something may well do it within the day; until then it is tried at the longest pause.
        pause = pause_after(delivery.attempt, exc.retry_after) if isinstance(exc, Transient) else MOST_PAUSE
        error = f"{exc.code}: {exc.message}"
        outcome, note = "put_off", partial(deliveries.put_off, delivery=delivery, error=error, pause=pause)
        log.warning("alert_not_sent", **names, code=exc.code, error=exc.message)
    await insist(partial(run, res.engine, seconds, note))
    ALERT_DELIVERIES.labels(channel, outcome).inc()
    return True


async def deliver_for_ever(res: Resources, channel: str) -> None:
    """Send until cancelled."""
    while True:
        try:
            more = await deliver(res, channel)
        except Transient as exc:
            log.warning("alerts_not_read", code=exc.code)
            more = False
        if not more:
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 no secret


async def _send(settings: Settings, channel: str, notice: Notice) -> str | None:
    """Send on one channel; returns a remark if not all of it went well, raises Transient or Permanent."""
    if channel == "mail" and settings.smtp_url and settings.alert_email_from:
        envelope = Envelope(settings.alert_email_from, settings.alert_email_to)
        return await mail.send(settings.smtp_url.get_secret_value(), envelope, notice)
    if channel == "slack" and settings.alert_slack_url:
        await slack.send(settings.alert_slack_url.get_secret_value(), notice)
    if channel == "webhook" and settings.alert_webhook_url and settings.alert_webhook_secret:
        secret = settings.alert_webhook_secret.get_secret_value()
        await signed.send(settings.alert_webhook_url.get_secret_value(), secret, notice)
    return None
