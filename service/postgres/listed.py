"""The SQL that finds the e-mail of a comment that Zendesk lists, each comment by one look into an index."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Boolean, DateTime, Text, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from service.postgres.email_tables import DISMISSED
from service.postgres.tombstones import is_erased, opened_hashes

# The status of an e-mail, for its state: a completed one with an error lacks files, and so it is not kept.
STATUS = f"""
CASE WHEN processing_status <> 'failed' AND NOT (processing_status = 'completed' AND error_code IS NOT NULL)
    THEN processing_status WHEN {DISMISSED} THEN 'dismissed' ELSE 'failed' END AS processing_status
"""
# E-mails that name a comment, and that no look into the index of comments finds yet: each webhook's, for a moment.
_FRESH = 1_000

# For a WITH clause; `:keys` are the numbers of the account as e-mails have them, see `keys_of`.
FRESH = f"""
fresh AS MATERIALIZED (
    SELECT DISTINCT ON (zendesk_ticket_id, comment_id) id, zendesk_ticket_id, comment_id, processing_status
    FROM (
        SELECT id, account_id, zendesk_ticket_id, comment_id, {STATUS} FROM incoming_emails
        WHERE comment_id <> '' AND NOT identified ORDER BY id DESC LIMIT (SELECT {_FRESH})
    ) AS newest
    WHERE coalesce(account_id, '') = ANY (:keys)
    ORDER BY zendesk_ticket_id, comment_id, id
)
"""  # noqa: S608 words and a number of ours
# Selects the e-mail of a row of `listed` that is the e-mail of this comment.
# An e-mail whose webhook did not name the account is of this one.
IDENTIFIED = f"""
SELECT id, {STATUS} FROM incoming_emails
WHERE identified AND coalesce(account_id, '') = ANY (:keys)
    AND zendesk_ticket_id = listed.ticket_id AND comment_id = listed.comment_id
ORDER BY coalesce(account_id, '') DESC LIMIT 1
"""  # noqa: S608 words of ours


def email_of(identified: str = IDENTIFIED) -> str:
    """Write the SQL that joins to each row of `listed` its e-mail, or none.

    A row stays one row, so that the counts of its states agree.
    """
    return f"""
LEFT JOIN LATERAL ({identified}) AS identified ON true
LEFT JOIN fresh ON identified.id IS NULL
    AND fresh.zendesk_ticket_id = listed.ticket_id AND fresh.comment_id = listed.comment_id
CROSS JOIN LATERAL (
    SELECT coalesce(identified.id, fresh.id) AS id,
        CASE WHEN identified.id IS NULL THEN fresh.processing_status ELSE identified.processing_status END AS status
) AS email
"""


EMAIL_OF = email_of()
# The states of a listed comment. Each row is in exactly one of them.
STATES = {
    "kept": "email.id IS NOT NULL AND email.status = 'completed'",
    "failed": "email.id IS NOT NULL AND email.status = 'failed'",
    "dismissed": "email.id IS NOT NULL AND email.status = 'dismissed'",
    "in_work": "email.id IS NOT NULL AND coalesce(email.status, '') NOT IN ('completed', 'failed', 'dismissed')",
    "missing": "email.id IS NULL",
}
# The FROM of those of `:tickets` that have no e-mail here, and had none that was purged or erased.
WITHOUT_EMAIL = f"""
FROM unnest(:tickets) AS ticket(id) LEFT JOIN LATERAL (
    SELECT id FROM incoming_emails
    WHERE zendesk_ticket_id = ticket.id AND coalesce(account_id, '') = ANY (:keys)
    ORDER BY id LIMIT 1
) AS email ON true LEFT JOIN LATERAL (
    SELECT ticket_id FROM removed_emails
    WHERE ticket_id = ticket.id AND comment_id IS NOT NULL AND coalesce(account_id, '') = ANY (:keys)
    ORDER BY ticket_id LIMIT 1
) AS removed ON true
WHERE email.id IS NULL AND removed.ticket_id IS NULL AND NOT EXISTS (
    SELECT FROM unnest(:keys) AS known(account) WHERE {is_erased(opened_hashes("known.account", "ticket.id"))}
)
"""  # noqa: S608 words of ours
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("account", "after_ticket", "after_comment", "last_ticket"), Text()),
    **dict.fromkeys(("keys", "tickets", "comments"), ARRAY(Text)),
    "days": ARRAY(DateTime(timezone=True)),
    **dict.fromkeys(
        ("since", "until", "day", "after", "before", "all_at", "part_at", "part_since"),
        DateTime(timezone=True),
    ),
    "has_target": Boolean(),
}


def keys_of(account_id: str | None) -> Sequence[str]:
    """Return the account's number as e-mails may have it: the number, or nothing where no webhook told it."""
    return [account_id, ""] if account_id else [""]


def statement(sql: str) -> TextClause:
    """Make a statement whose parameters have their types: an array or a time may be null."""
    made = text(sql)
    named = made._bindparams  # noqa: SLF001 its names
    return made.bindparams(*(bindparam(name, type_=kind) for name, kind in _TYPES.items() if name in named))
