"""Add the sync's state machine: until now no e-mail was carried anywhere, and all of them stood as `pending`."""

from alembic import op

revision = "20251103_0900"
down_revision = "20251020_0910"

COLUMNS = {
    "sync_error_code": "text",
    "sync_attempt_number": "integer NOT NULL DEFAULT 0",
    "sync_unsettled": "integer NOT NULL DEFAULT 0",
    "sync_due_at": "timestamptz NOT NULL DEFAULT now()",
    "synced_at": "timestamptz",
}
# Rewriting each row of a large table would take hours; a new column has its default at once, in all of them.
NEW = "sync_status_of_now"
STATUSES = "'not_applicable', 'pending', 'synced', 'failed'"
BATCH = 10_000


def upgrade() -> None:
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in COLUMNS.items())
    op.execute(f"ALTER TABLE incoming_emails {added}")
    op.execute(
        f"ALTER TABLE incoming_emails ADD COLUMN IF NOT EXISTS {NEW} text NOT NULL DEFAULT 'not_applicable'"
    )
    with op.get_context().autocommit_block():
        op.execute(_copy())
    op.execute("ALTER TABLE incoming_emails DROP COLUMN sync_status")
    op.execute(f"ALTER TABLE incoming_emails RENAME COLUMN {NEW} TO sync_status")
    # What is there was made with these words, so there is nothing to look for under a lock.
    op.execute(
        "ALTER TABLE incoming_emails ADD CONSTRAINT ck_incoming_emails_sync_status"
        f" CHECK (sync_status IN ({STATUSES})) NOT VALID"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE incoming_emails DROP CONSTRAINT ck_incoming_emails_sync_status")
    op.execute("ALTER TABLE incoming_emails ALTER COLUMN sync_status SET DEFAULT 'pending'")
    dropped = ", ".join(f"DROP COLUMN {name}" for name in COLUMNS)
    op.execute(f"ALTER TABLE incoming_emails {dropped}")


def _copy() -> str:
    """Keep what another program may have written there, some rows at a time, each time committed."""
    return f"""
        DO $$
        DECLARE
            place bigint := 0;
            last bigint := (SELECT coalesce(max(id), 0) FROM incoming_emails);
        BEGIN
            WHILE place <= last LOOP
                UPDATE incoming_emails SET {NEW} = sync_status
                WHERE id >= place AND id < place + {BATCH} AND sync_status IN ('synced', 'failed');
                place := place + {BATCH};
                COMMIT;
            END LOOP;
        END $$
    """  # noqa: S608 a name and a number of ours
