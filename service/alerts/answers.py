"""Post a notice, and say what its receiver's answer means."""

from collections.abc import Mapping

from service.errors import Permanent, Transient
from service.outbound.backoff import RETRYABLE
from service.outbound.signed_post import open_session, post


async def deliver(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Post `body`; any 2xx will do. Raises Transient or Permanent, which never show the address."""
    # A session for each: alerts are rare, and nothing is left open between them.
    async with open_session() as session:
        answer = await post(session, url, body, headers)
    if answer.is_good:
        return
    if answer.status in RETRYABLE or answer.status >= 500:
        raise Transient("receiver_busy", f"it answered {answer.status}", answer.retry_after)
    raise Permanent(
        "receiver_refused", f"it answered {answer.status}: look at the address and what it expects"
    )
