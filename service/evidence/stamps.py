"""Time stamps of heads by an authority (RFC 3161): they prove when a head existed, to somebody who trusts no clock of ours."""

from hashlib import sha256
from typing import Any

import structlog
from sqlalchemy import BigInteger, LargeBinary, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import HoldfastError, Permanent, Transient
from service.evidence.heads import document
from service.outbound.signed_post import open_session, post_for_bytes
from service.resources import Resources
from service.storage import objects

MOST_BYTES = 64 * 1024
_GRANTED = (0, 1)  # the second one with modifications, such as of the accuracy
_HEADERS = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}

log = structlog.get_logger()


async def stamp(res: Resources) -> bool:
    """Have the newest head stamped, unless it is; return whether it was. Older heads are covered by newer ones.

    Raises Transient or Permanent where the authority gives no stamp; the reason is kept with the head.
    """
    if res.settings.timestamp_url is None:
        return False
    head = await res.run(_not_stamped)
    if head is None:
        return False
    content = document(head.body, head.signature)
    try:
        answer = await _ask(res.settings.timestamp_url, content)
        await objects.keep_head(res.storage, head.object_key.replace(".json", ".tsr"), answer)
    except HoldfastError as exc:
        failed = {"number": head.number, "error": f"{exc.code}: {exc.message}"[:500]}
        await res.run(lambda conn: conn.execute(_FAILED, failed))
        raise
    await res.run(lambda conn: conn.execute(_STAMPED, {"number": head.number, "stamp": answer}))
    log.info("evidence_head_stamped", head=head.number)
    return True


def is_about(stamp: bytes, content: bytes) -> bool:
    """Say whether a time stamp is granted, and about these bytes; the authority's signature is not checked."""
    from rfc3161_client import decode_timestamp_response  # noqa: PLC0415 only stamps need it

    try:
        answer = decode_timestamp_response(stamp)
        return (
            answer.status in _GRANTED and answer.tst_info.message_imprint.message == sha256(content).digest()
        )
    except ValueError:
        return False


async def _ask(url: str, content: bytes) -> bytes:
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, decode_timestamp_response  # noqa: PLC0415

    request = TimestampRequestBuilder().data(content).hash_algorithm(HashAlgorithm.SHA256).build()
    async with open_session() as session:
        answer, body = await post_for_bytes(session, url, request.as_bytes(), _HEADERS, MOST_BYTES)
    if not answer.is_good:
        raise Transient("timestamp_refused", f"the time stamp authority answered {answer.status}")
    try:
        nonce = decode_timestamp_response(body).tst_info.nonce
    except ValueError:  # it is no answer, or has no stamp
        raise Permanent("timestamp_wrong", "the time stamp authority gave no time stamp") from None
    if nonce != request.nonce or not is_about(body, content):
        raise Permanent("timestamp_wrong", "the time stamp authority stamped something else")
    return body


async def _not_stamped(conn: AsyncConnection) -> Any:  # noqa: ANN401 a row
    return (await conn.execute(_NEWEST)).one_or_none()


_NEWEST = text("""
SELECT number, body, signature, object_key FROM (SELECT * FROM evidence_heads ORDER BY number DESC LIMIT 1) AS head
WHERE stamp IS NULL AND stored_at IS NOT NULL
""")
_STAMPED = text("""
UPDATE evidence_heads SET stamp = :stamp, stamped_at = now(), stamp_error = NULL WHERE number = :number
""").bindparams(bindparam("number", type_=BigInteger()), bindparam("stamp", type_=LargeBinary()))
_FAILED = text("UPDATE evidence_heads SET stamp_error = :error WHERE number = :number").bindparams(
    bindparam("number", type_=BigInteger()), bindparam("error", type_=Text())
)
