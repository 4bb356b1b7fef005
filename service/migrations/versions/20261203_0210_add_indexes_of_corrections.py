"""Fill in the key that a webhook in quarantine shares with an e-mail, and add its index and those of corrections."""

from alembic import op

revision = "20261203_0210"
down_revision = "20261203_0200"

# As the error of such a webhook names it: E-mail 12 has the same key 'KEY', but another body.
KEY = "substring(error FROM 'has the same key ''(.*)'', but another body')"
# A transaction for every thousand rows, so that no writer waits long: a trigger may have put every e-mail here.
FILL = f"""
DO $$
DECLARE
    done bigint := 0;
    until bigint;
BEGIN
    LOOP
        SELECT max(id) INTO until FROM (
            SELECT id FROM quarantined_webhooks WHERE id > done AND error_code = 'key_reused' ORDER BY id LIMIT 1000
        ) AS batch;
        EXIT WHEN until IS NULL;
        UPDATE quarantined_webhooks SET reused_key = {KEY}
        WHERE id > done AND id <= until AND error_code = 'key_reused' AND reused_key IS NULL;
        COMMIT;
        done := until;
    END LOOP;
END $$
"""  # noqa: S608 words of ours

INDEXES = {
    "uq_quarantine_corrections_accepted": "UNIQUE INDEX CONCURRENTLY {} ON quarantine_corrections (quarantine_id)"
    " WHERE error_code IS NULL",
    "ix_quarantine_corrections_webhook": "INDEX CONCURRENTLY {} ON quarantine_corrections (quarantine_id, id)",
    "ix_quarantined_webhooks_reused_key": "INDEX CONCURRENTLY {} ON quarantined_webhooks (reused_key)"
    " WHERE reused_key IS NOT NULL",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(FILL)
        for name, kind in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {kind.format(name)}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
