"""Let a comment be one e-mail, and add the indexes of messages."""

from alembic import op

revision = "20261129_2110"
down_revision = "20261129_2100"

# No e-mail from before is identified, so none of them is in the way of another.
INDEXES = {
    "uq_incoming_emails_comment": "incoming_emails (coalesce(account_id, ''), zendesk_ticket_id, comment_id) WHERE identified",
    "ix_incoming_emails_unidentified": "incoming_emails (id) WHERE comment_id <> '' AND NOT identified",
    "uq_announcements_signature_hash": "announcements (signature_hash) WHERE signature_hash IS NOT NULL",
    "ix_announcements_email": "announcements (email_id, id)",
    "ix_merged_emails_email": "merged_emails (email_id)",
    "ix_merged_emails_key": "merged_emails (idempotency_key)",
    "ix_messages_record_sha256": "messages (record_sha256)",
    "ix_messages_original_sha256": "messages (original_sha256) WHERE original_sha256 IS NOT NULL",
    "ix_tickets_no_subject": "tickets (asked_at) WHERE subject_at IS NULL",
    "ix_email_words_words": "email_words USING gin (words)",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, rows in INDEXES.items():
            kind = "UNIQUE INDEX" if name.startswith("uq_") else "INDEX"
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {kind} CONCURRENTLY {name} ON {rows}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
