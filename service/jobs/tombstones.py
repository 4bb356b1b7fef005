"""Makes the tombstones of content that is about to be deleted, in the transaction that deletes it."""

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import BigInteger, LargeBinary, Text, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.tombstones import (
    author_hashes,
    comment_hashes,
    content_hash,
    opened_hashes,
    request_hash,
    request_hashes,
    suspended_hash,
    ticket_hashes,
)

WebhookTable = Literal["quarantined_webhooks", "ignored_webhooks"]


async def make_salt(conn: AsyncConnection, salt: bytes) -> None:
    """Keep this salt for all tombstones, unless there is one. Without a salt no tombstone can be made."""
    await conn.execute(_SALT, {"salt": salt})


async def bury(conn: AsyncConnection, email_ids: Sequence[int], receipt_id: int | None) -> None:
    """Make the tombstones of e-mails: of their comments and of all their requests.

    An e-mail whose comment is not known is recognised later by its ticket, its sender and its time.
    """
    await conn.execute(_BURY, {"email_ids": list(email_ids), "receipt_id": receipt_id})


async def bury_ticket(conn: AsyncConnection, ticket_id: str, receipt_id: int) -> None:
    """Make the tombstones of all comments of a ticket that were made until now."""
    await conn.execute(_BURY_TICKET, {"ticket_id": ticket_id, "receipt_id": receipt_id})


async def bury_content(conn: AsyncConnection, sha256: str, receipt_id: int) -> None:
    """Make the tombstone of a file's content."""
    await conn.execute(_BURY_CONTENT, {"sha256": sha256, "receipt_id": receipt_id})


async def bury_webhooks(
    conn: AsyncConnection, table: WebhookTable, ids: Sequence[int], receipt_id: int
) -> None:
    """Make the tombstones of requests in quarantine, or of ignored ones."""
    await conn.execute(_BURY_WEBHOOKS[table], {"ids": list(ids), "receipt_id": receipt_id})


async def bury_suspended(conn: AsyncConnection, ids: Sequence[int], receipt_id: int) -> None:
    """Make the tombstones of suspended e-mails."""
    await conn.execute(_BURY_SUSPENDED, {"ids": list(ids), "receipt_id": receipt_id})


_REQUESTS = """
SELECT idempotency_key, signature_hash, raw_body, invocation_id FROM incoming_emails
WHERE id = ANY (:email_ids) AND raw_body IS NOT NULL
UNION ALL
SELECT idempotency_key, signature_hash, raw_body, invocation_id FROM announcements WHERE email_id = ANY (:email_ids)
UNION ALL
SELECT idempotency_key, signature_hash, raw_body, invocation_id FROM quarantined_webhooks
WHERE email_id = ANY (:email_ids)
UNION ALL
SELECT idempotency_key, signature_hash, raw_body, invocation_id FROM ignored_webhooks WHERE email_id = ANY (:email_ids)
"""
# A stored request may have had its invocation's key, or the key that its body alone has.
_REQUEST_HASHES = ", ".join(
    [
        *request_hashes("request.idempotency_key", "request.signature_hash", "request.raw_body"),
        request_hash("coalesce(request.invocation_id, '')", "request.raw_body"),
        request_hash("concat('sha256:', encode(sha256(request.raw_body), 'hex'))", "request.raw_body"),
    ]
)
_OF_EMAIL = ("email.account_id", "email.zendesk_ticket_id")
# Without an account of its own, an e-mail is that of each account; with one, also that of none.
_ANY = "CASE WHEN coalesce(email.account_id, '') = '' THEN '*' ELSE '' END"


def _both(account_hashes: Sequence[str], other_hashes: Sequence[str]) -> str:
    """Return the hash with the e-mail's own account, and the one with the other account under which it is recognised."""
    return f"ARRAY[{account_hashes[0]}, {other_hashes[0]}]"


def _make(rows: str, **kinds: object) -> TextClause:
    """Build a statement that makes tombstones of rows of hashes and times."""
    return text(f"""
INSERT INTO tombstones (hash, until, receipt_id)
SELECT hash, max(until), :receipt_id FROM ({rows}) AS made WHERE hash IS NOT NULL GROUP BY hash ORDER BY hash
ON CONFLICT (hash) DO UPDATE SET until = greatest(tombstones.until, excluded.until)
""").bindparams(  # noqa: S608 words of ours
        bindparam("receipt_id", type_=BigInteger()),
        *(bindparam(name, type_=kind) for name, kind in kinds.items()),  # type: ignore[arg-type] # types of SQLAlchemy
    )


_ALWAYS = "CAST(NULL AS timestamptz)"
_SALT = text("INSERT INTO erasure_salts (id, salt) VALUES (1, :salt) ON CONFLICT DO NOTHING").bindparams(
    bindparam("salt", type_=LargeBinary())
)
_BURY = _make(
    f"""
    SELECT unnest(ARRAY[{_REQUEST_HASHES}]) AS hash, {_ALWAYS} AS until FROM ({_REQUESTS}) AS request
    UNION ALL
    SELECT unnest({
        _both(comment_hashes(*_OF_EMAIL, "comment.id"), comment_hashes(_ANY, _OF_EMAIL[1], "comment.id"))
    }), NULL
    FROM incoming_emails AS email LEFT JOIN messages ON messages.email_id = email.id
    CROSS JOIN LATERAL (VALUES (nullif(email.comment_id, '')), (messages.comment_id)) AS comment (id)
    WHERE email.id = ANY (:email_ids) AND comment.id IS NOT NULL
    UNION ALL
    SELECT unnest({_both(opened_hashes(*_OF_EMAIL), opened_hashes(_ANY, _OF_EMAIL[1]))}), NULL
    FROM incoming_emails AS email WHERE email.id = ANY (:email_ids)
    UNION ALL
    SELECT unnest({
        _both(author_hashes(*_OF_EMAIL, "from_email"), author_hashes(_ANY, _OF_EMAIL[1], "from_email"))
    }), received_at
    FROM incoming_emails AS email
    WHERE email.id = ANY (:email_ids) AND coalesce(comment_id, '') = '' AND from_email IS NOT NULL
        AND NOT EXISTS (SELECT FROM messages WHERE messages.email_id = email.id)
    """,  # noqa: S608 words of ours
    email_ids=ARRAY(BigInteger),
)
_BURY_TICKET = _make(
    f"""
    SELECT unnest({_both(ticket_hashes(*_OF_EMAIL), ticket_hashes(_ANY, _OF_EMAIL[1]))}) AS hash, now() AS until
    FROM incoming_emails AS email WHERE zendesk_ticket_id = :ticket_id
    """,  # noqa: S608 words of ours
    ticket_id=Text(),
)
_BURY_CONTENT = _make(f"SELECT {content_hash(':sha256')} AS hash, {_ALWAYS} AS until", sha256=Text())
_BURY_WEBHOOKS: dict[WebhookTable, TextClause] = {
    table: _make(
        f"""
        SELECT unnest(ARRAY[{_REQUEST_HASHES}]) AS hash, {_ALWAYS} AS until
        FROM {table} AS request WHERE id = ANY (:ids)
        """,  # noqa: S608 words of ours
        ids=ARRAY(BigInteger),
    )
    for table in ("quarantined_webhooks", "ignored_webhooks")
}
_BURY_SUSPENDED = _make(
    f"""
    SELECT {suspended_hash("account", "suspended_id")} AS hash, {_ALWAYS} AS until
    FROM suspended_emails WHERE id = ANY (:ids)
    """,  # noqa: S608 words of ours
    ids=ARRAY(BigInteger),
)
