"""Deletes the rows of e-mails that are removed, with all that hangs on them, in the transaction of its caller."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Row, Text, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(slots=True)
class Contents:
    """The contents of one e-mail."""

    files: int = 0
    bytes: int = 0
    hashes: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class DeletedRows:
    """The documents of deleted e-mails, also of those that had become part of them, and their tickets."""

    documents: Sequence[Row[Any]]
    tickets: AbstractSet[tuple[str, str]]

    @property
    def email_ids(self) -> list[int]:
        return sorted({row.email_id for row in self.documents})


async def contents_of(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, Contents]:
    """Return what e-mails name in the storage: files, message records, originals, and copies of any of them."""
    found: dict[int, Contents] = {}
    for email_id, sha256, size, is_file in await conn.execute(_CONTENTS, {"email_ids": list(email_ids)}):
        own = found.setdefault(email_id, Contents())
        own.files += is_file
        own.bytes += size
        own.hashes.add(sha256)
    return found


async def delete_rows(conn: AsyncConnection, email_ids: Sequence[int], receipt_id: int) -> DeletedRows:
    """Delete all rows of locked e-mails, and remember their documents for the targets.

    The caller has the objects of `contents_of` removed, and records the removal in the evidence log.
    """
    given = {"email_ids": list(email_ids)}
    documents = (await conn.execute(_REMEMBER, {**given, "receipt_id": receipt_id})).all()
    # A finding about a document holds a copy of it, under its key alone if it has no e-mail.
    await conn.execute(_DELETE_FINDINGS, {**given, "keys": [row.document_key for row in documents]})
    for statement in _DELETE:
        await conn.execute(statement, given)
    tickets = (await conn.execute(_DELETE_EMAILS, given)).all()
    return DeletedRows(documents, {(row.account_id, row.ticket_id) for row in tickets})


async def forget_tickets(conn: AsyncConnection, tickets: Iterable[tuple[str, str]]) -> None:
    """Delete the facts of tickets of which no e-mail is left."""
    accounts, numbers = [], []
    for account_id, ticket_id in sorted(tickets):
        accounts.append(account_id)
        numbers.append(ticket_id)
    await conn.execute(_DELETE_TICKETS, {"accounts": accounts, "tickets": numbers})


def _statement(sql: str) -> TextClause:
    kinds: dict[str, Any] = {
        "email_ids": ARRAY(BigInteger),
        "keys": ARRAY(Text),
        "accounts": ARRAY(Text),
        "tickets": ARRAY(Text),
        "receipt_id": BigInteger(),
    }
    return text(sql).bindparams(
        *(bindparam(name, type_=kind) for name, kind in kinds.items() if f":{name}" in sql)
    )


_THESE = "email_id = ANY(:email_ids)"
# A suspended e-mail that became one of these is a copy of it. A verification keeps a damaged object under its own hash.
# A killed attempt may have put an object that no row names. The note stays: a running attempt may put it again.
_CONTENTS = _statement(f"""
SELECT email_id, sha256, coalesce(size, 0), true FROM attachments WHERE {_THESE} AND sha256 IS NOT NULL
UNION ALL
SELECT email_id, record_sha256, record_size, false FROM messages WHERE {_THESE}
UNION ALL
SELECT email_id, original_sha256, coalesce(original_size, 0), false FROM messages
WHERE {_THESE} AND original_sha256 IS NOT NULL
UNION ALL
SELECT email_id, unnest(contents), 0, false FROM suspended_emails WHERE {_THESE}
UNION ALL
SELECT email_id, replace(substr(detail ->> 'kept_as', 8), '/', ''), 0, false FROM reconciliation_findings
WHERE {_THESE} AND kind = 'object_damaged' AND detail ->> 'kept_as' LIKE 'sha256/%'
UNION ALL
SELECT email_id, replace(substr(key, 8), '/', ''), 0, false FROM loose_objects WHERE {_THESE}
""")  # noqa: S608 constants of ours
# The targets may have a document of an e-mail that was ever synced, and of one that had become part of it. The same
# expression as `key_of_email`.
_REMEMBER = _statement("""
WITH email AS (
    SELECT id, account_id, zendesk_ticket_id, nullif(comment_id, '') AS comment_id, attempt_number,
        coalesce(idempotency_key, concat('holdfast:email:', id)) AS document_key,
        sync_status = 'synced' OR sync_attempt_number > 0 AS may_be_in_target
    FROM incoming_emails WHERE id = ANY(:email_ids)
), document AS (
    SELECT id, id AS became, document_key, attempt_number + 1 AS version, may_be_in_target,
        account_id, zendesk_ticket_id, comment_id
    FROM email
    UNION ALL
    SELECT id, email_id, idempotency_key, coalesce(version, 0) + 1, version IS NOT NULL, NULL, NULL, NULL
    FROM merged_emails WHERE email_id = ANY(:email_ids)
), receipt AS (
    SELECT kind = 'purge' AS is_purge FROM receipts WHERE id = :receipt_id
), remembered AS (
    INSERT INTO removed_emails (
        email_id, receipt_id, document_key, version, account_id, ticket_id, comment_id, target_due_at
    )
    SELECT id, :receipt_id, document_key, version,
        CASE WHEN is_purge AND comment_id IS NOT NULL THEN account_id END,
        CASE WHEN is_purge AND comment_id IS NOT NULL THEN zendesk_ticket_id END,
        CASE WHEN is_purge THEN comment_id END,
        CASE WHEN may_be_in_target THEN now() END
    FROM document CROSS JOIN receipt
)
SELECT id AS email_id, became, document_key, version FROM document ORDER BY id
""")
_DELETE_FINDINGS = _statement(f"""
DELETE FROM reconciliation_findings WHERE {_THESE} OR key = ANY(:keys)
""")  # noqa: S608 constants of ours
# A suspended e-mail that Zendesk still lists keeps its number: without it, the next search would keep it again.
_DELETE = (
    _statement(f"""
WITH {
        ", ".join(
            f"of_{table} AS (DELETE FROM {table} WHERE {_THESE})"
            for table in (
                *("attachments", "attempts", "messages", "announcements", "email_words", "merged_emails"),
                *("quarantined_webhooks", "ignored_webhooks"),
            )
        )
    }, of_suspended AS (
    DELETE FROM suspended_emails WHERE {_THESE} AND gone_at IS NOT NULL
), of_listed AS (
    UPDATE suspended_emails SET subject = NULL, from_address = NULL, from_name = NULL, recipient = NULL, cause = NULL,
        message_id = NULL, text = '', files = '[]', contents = '{{}}', record_sha256 = '', record_key = '', record_size = 0
    WHERE {_THESE} AND gone_at IS NULL
)
UPDATE operator_actions SET reason = NULL WHERE {_THESE} AND reason IS NOT NULL
"""),  # noqa: S608 constants of ours
    # What Zendesk lists is counted against the e-mails here: a removed one is not missing.
    _statement("""
DELETE FROM source_emails USING incoming_emails AS email, sources
WHERE email.id = ANY(:email_ids) AND email.comment_id <> ''
    AND coalesce(email.account_id, sources.account_id, '') = coalesce(sources.account_id, '')
    AND source_emails.account = sources.account AND ticket_id = zendesk_ticket_id
    AND source_emails.comment_id = email.comment_id
"""),
)
_DELETE_EMAILS = _statement("""
WITH gone AS (
    DELETE FROM incoming_emails WHERE id = ANY(:email_ids)
    RETURNING coalesce(account_id, '') AS account_id, zendesk_ticket_id
)
SELECT DISTINCT account_id, zendesk_ticket_id AS ticket_id FROM gone WHERE zendesk_ticket_id IS NOT NULL
""")
# A look-up locks its ticket before its e-mails, and so this waits for no ticket.
_DELETE_TICKETS = _statement("""
DELETE FROM tickets USING (
    SELECT tickets.account_id, tickets.ticket_id
    FROM unnest(:accounts, :tickets) AS gone (account_id, ticket_id)
    JOIN tickets ON tickets.account_id = gone.account_id AND tickets.ticket_id = gone.ticket_id
    WHERE (looking_until IS NULL OR looking_until < now()) AND NOT EXISTS (
        SELECT FROM incoming_emails
        WHERE zendesk_ticket_id = gone.ticket_id AND coalesce(incoming_emails.account_id, '') = gone.account_id
    )
    FOR UPDATE OF tickets SKIP LOCKED
) AS unused
WHERE tickets.account_id = unused.account_id AND tickets.ticket_id = unused.ticket_id
""")
