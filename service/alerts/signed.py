"""Send a notice as a webhook that its receiver can verify."""

import json

from service.alerts.answers import deliver
from service.alerts.notice import Notice
from service.outbound.signed_post import signed


async def send(url: str, secret: str, notice: Notice) -> None:
    """Send a notice; raises Transient or Permanent."""
    body = json.dumps({"type": notice.kind, "timestamp": notice.at.isoformat(), "data": _data(notice)})
    await deliver(url, body.encode(), signed(notice.id, body, secret))


def _data(notice: Notice) -> dict[str, object]:
    return {**notice.data, "title": notice.title, "text": notice.text, "url": notice.link}
