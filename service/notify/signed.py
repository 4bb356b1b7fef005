"""Send a notice as a webhook that its receiver can verify.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import json
from datetime import UTC, datetime

from standardwebhooks import Webhook

from service.notify.notice import Notice
from service.notify.post import post


async def send(url: str, secret: str, notice: Notice) -> None:
    """Send a notice; raises Transient or Permanent."""
    body = json.dumps({"type": notice.kind, "timestamp": notice.at.isoformat(), "data": _data(notice)})
    now = datetime.now(UTC)
    await post(
        url,
        body.encode(),
        {
            "webhook-id": notice.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(notice.id, now, body),
        },
    )


def _data(notice: Notice) -> dict[str, object]:
    return {**notice.data, "title": notice.title, "text": notice.text, "url": notice.link}
