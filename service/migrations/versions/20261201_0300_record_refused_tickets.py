"""Record tickets whose comments Zendesk refuses, and seconds of which a search found only a part."""

import sqlalchemy as sa
from alembic import op

revision = "20261201_0300"
down_revision = "20261201_0110"

TIME = sa.DateTime(timezone=True)
TABLES = ("sources", "backfills")


def upgrade() -> None:
    op.create_table(
        "refused_tickets",
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("ticket_id", sa.Text, nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("error_code", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("refused_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("refused_last_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("due_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("account", "ticket_id", name="pk_refused_tickets"),
        if_not_exists=True,
    )
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS left_out timestamptz")


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} DROP COLUMN IF EXISTS left_out")
    op.drop_table("refused_tickets", if_exists=True)
