"""Vacuum incoming_emails after so many changes, not after a share of its rows: the sweep walks past what is dead.

Each e-mail leaves three dead entries in the indexes of what waits, at the end where the sweep begins. By default they
stay until a fifth of the table has changed (two million of ten), and even then until a fiftieth of its pages
has. This bounds them by what a sweep passes in no time: some 75 pages.
"""

from alembic import op

revision = "20251006_0910"
down_revision = "20251006_0900"

PARAMETERS = {
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "20000",
    "vacuum_index_cleanup": "on",
}


def upgrade() -> None:
    # Under a lock that neither readers nor writers wait for.
    settings = ", ".join(f"{name} = {value}" for name, value in PARAMETERS.items())
    op.execute(f"ALTER TABLE incoming_emails SET ({settings})")


def downgrade() -> None:
    op.execute(f"ALTER TABLE incoming_emails RESET ({', '.join(PARAMETERS)})")
