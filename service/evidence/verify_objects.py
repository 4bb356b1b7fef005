"""Verify that the storage has the bytes that rows name: stored files, records and originals of messages."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, bindparam, text

from service.errors import Permanent
from service.evidence.findings import Finding, Report
from service.postgres.contents import known_contents
from service.resources import Resources
from service.storage import objects

STEP = 500  # ids of e-mails


async def verify_objects(res: Resources, place: Mapping[str, Any], report: Report) -> dict[str, Any] | None:
    """Read and hash the next objects; return the place to go on at, or None at the end.

    One that is missing because its e-mail or file was removed meanwhile is no finding.
    """
    given = {"after": place.get("after", 0), "until": place.get("after", 0) + STEP}
    rows = await res.run(lambda conn: conn.execute(_CONTENTS, given))
    for email_id, sha256, size, key in rows:
        finding = await _verify(res, email_id, (sha256, size), key)
        if finding is None:
            report.count("objects")
        elif await res.run(lambda conn, sha256=sha256: known_contents(conn, [sha256])):  # type: ignore[misc]
            report.add(finding)
    last = await res.run(lambda conn: conn.scalar(_LAST))
    return {"after": given["until"]} if given["until"] < (last or 0) else None


async def _verify(res: Resources, email_id: int, expected: tuple[str, int], key: str) -> Finding | None:
    try:
        found = await objects.digest(res.storage, key)
    except Permanent:
        return Finding("object_missing", f"the storage lacks the object {key}", email_id)
    if found == expected:
        return None
    return Finding("object_changed", f"the object {key} has other bytes", email_id)


_CONTENTS = text("""
SELECT min(email_id), sha256, size, key FROM (
    SELECT email_id, sha256, size, object_key AS key FROM attachments WHERE status = 'stored'
    UNION ALL SELECT email_id, record_sha256, record_size, record_key FROM messages
    UNION ALL SELECT email_id, original_sha256, original_size, original_key FROM messages WHERE original = 'stored'
) AS content
WHERE email_id > :after AND email_id <= :until AND key IS NOT NULL
GROUP BY sha256, size, key ORDER BY min(email_id)
""").bindparams(*(bindparam(name, type_=BigInteger()) for name in ("after", "until")))
_LAST = text("SELECT max(id) FROM incoming_emails")
