"""Post a notice to an incoming webhook of Slack, or of what understands the same.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

import html
import json

from service.alerts.answers import deliver
from service.alerts.notice import Notice


async def send(url: str, notice: Notice) -> None:
    """Send a notice; raises Transient or Permanent."""
    await deliver(url, json.dumps(_message(notice)).encode(), {})


def _message(notice: Notice) -> dict[str, object]:
    # In a block of code nothing is a link, a mention or a picture, neither to Slack nor to what reads Markdown.
    text = f"*{_escape(notice.title)}*\n```\n{_escape(notice.text)}\n```"
    if notice.link:
        text += f"\n<{notice.link}>"
    return {"text": text, "unfurl_links": False, "unfurl_media": False}


def _escape(text: str) -> str:
    """Escape the three characters that Slack names, and what would end the block."""
    return html.escape(text, quote=False).replace("`", "'")
