"""Channels of alerts: mail, Slack and signed webhooks. Each sends one notice."""

import asyncio
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from service.alerts import mail
from service.alerts.mail import Envelope
from service.alerts.message import Notice, test_notice
from service.config.settings import Settings
from service.errors import HoldfastError, Permanent, Transient
from service.outbound.backoff import RETRYABLE
from service.outbound.signed_post import open_session, post, signed


@dataclass(frozen=True)
class ChannelTest:
    """The result of a test message; `error` is None if the channel accepted it."""

    channel: str
    error: str | None


def channel_names(settings: Settings) -> list[str]:
    """Return the names of the channels that are set up."""
    addresses = {
        "mail": settings.alert_email_to,
        "slack": settings.alert_slack_url,
        "webhook": settings.alert_webhook_url,
    }
    return [channel for channel, address in addresses.items() if address]


async def send_tests(settings: Settings) -> list[ChannelTest]:
    """Send a test message to each channel that is set up."""
    notice = test_notice(datetime.now(UTC), settings.public_url)

    async def one(channel: str) -> ChannelTest:
        try:
            return ChannelTest(channel, await send(settings, channel, notice))
        except HoldfastError as exc:
            return ChannelTest(channel, f"{exc.code}: {exc.message}")

    return await asyncio.gather(*map(one, channel_names(settings)))


async def send(settings: Settings, channel: str, notice: Notice) -> str | None:
    """Send a notice; return a remark if some recipients were refused. Raises Transient or Permanent."""
    if channel == "mail" and settings.smtp_url and settings.alert_email_from:
        envelope = Envelope(settings.alert_email_from, settings.alert_email_to)
        return await mail.send(settings.smtp_url.get_secret_value(), envelope, notice)
    if channel == "slack" and settings.alert_slack_url:
        await send_to_slack(settings.alert_slack_url.get_secret_value(), notice)
    if channel == "webhook" and settings.alert_webhook_url and settings.alert_webhook_secret:
        secret = settings.alert_webhook_secret.get_secret_value()
        await send_webhook(settings.alert_webhook_url.get_secret_value(), secret, notice)
    return None


async def send_to_slack(url: str, notice: Notice) -> None:
    """Post a notice to an incoming webhook of Slack, or of a compatible chat; raises Transient or Permanent.

    https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
    """
    # Inside a code block, Slack and Markdown make no links, mentions or pictures.
    text = f"*{_escape(notice.title)}*\n```\n{_escape(notice.text)}\n```"
    if notice.link:
        text += f"\n<{notice.link}>"
    message = {"text": text, "unfurl_links": False, "unfurl_media": False}
    await _post(url, json.dumps(message).encode(), {})


async def send_webhook(url: str, secret: str, notice: Notice) -> None:
    """Post a notice as a webhook that its receiver can verify; raises Transient or Permanent."""
    data = {**notice.data, "title": notice.title, "text": notice.text, "url": notice.link}
    body = json.dumps({"type": notice.kind, "timestamp": notice.at.isoformat(), "data": data})
    await _post(url, body.encode(), signed(notice.id, body, secret))


async def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Post `body` and expect a 2xx answer. Errors never show the address."""
    # One session per alert: alerts are rare, and no connection stays open between them.
    async with open_session() as session:
        answer = await post(session, url, body, headers)
    if answer.is_good:
        return
    if answer.status in RETRYABLE or answer.status >= 500:
        raise Transient("receiver_busy", f"answered {answer.status}", answer.retry_after)
    raise Permanent(
        "receiver_refused",
        f"answered {answer.status}: check the address, and the documentation of the receiver",
    )


def _escape(text: str) -> str:
    """Escape Slack's three control characters, and the character that would end the code block."""
    return html.escape(text, quote=False).replace("`", "'")
