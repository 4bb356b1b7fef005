"""Find rows of what was erased: a version that knows no tombstones may have brought it back, as during a rollback."""

from collections.abc import Mapping

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.evidence.findings import Finding
from service.postgres.erasure_tables import RUNNING_ERASURE
from service.postgres.held_emails import holds_on
from service.postgres.tombstones import content_hash, is_erased, is_erased_email


async def erased_but_present(conn: AsyncConnection, given: Mapping[str, int]) -> list[Finding]:
    """Find e-mails, files and originals that tombstones recognise.

    While an erasure runs, it deletes them. Held ones stay on purpose, also when they come back.
    """
    emails = [*await conn.scalars(_EMAILS, given)]
    files = (await conn.execute(_FILES, given)).all()
    originals = [*await conn.scalars(_ORIGINALS, given)]
    held = await holds_on(conn, sorted({*emails, *originals, *(row.email_id for row in files)}))
    found = [(email_id, f"e-mail {email_id}") for email_id in emails]
    found += [(email_id, f"the original of e-mail {email_id}") for email_id in originals]
    found += [(row.email_id, f"file {row.position} of e-mail {row.email_id}") for row in files]
    return [
        Finding("erased_but_present", f"{what} was erased, and is here again", email_id)
        for email_id, what in found
        if email_id not in held
    ]


_BOUNDS = [bindparam(name, type_=BigInteger()) for name in ("after", "until")]
_NONE_RUNS = f"(SELECT id FROM erasures WHERE {RUNNING_ERASURE} ORDER BY next_at LIMIT 1) IS NULL"  # noqa: S608 a constant of ours
# A join would read all messages.
_CREATED_AT = "(SELECT created_at FROM messages WHERE email_id = email.id)"
_EMAILS = text(f"""
SELECT id FROM incoming_emails AS email
WHERE id > :after AND id <= :until AND {_NONE_RUNS} AND {is_erased_email("email", _CREATED_AT)} ORDER BY id
""").bindparams(*_BOUNDS)  # noqa: S608 words of ours
_FILES = text(f"""
SELECT email_id, position FROM attachments
WHERE email_id > :after AND email_id <= :until AND sha256 IS NOT NULL AND {_NONE_RUNS}
    AND {is_erased([content_hash("sha256")])}
ORDER BY email_id, position
""").bindparams(*_BOUNDS)  # noqa: S608 words of ours
_ORIGINALS = text(f"""
SELECT email_id FROM messages
WHERE email_id > :after AND email_id <= :until AND original_sha256 IS NOT NULL AND {_NONE_RUNS}
    AND {is_erased([content_hash("original_sha256")])}
ORDER BY email_id
""").bindparams(*_BOUNDS)  # noqa: S608 words of ours
