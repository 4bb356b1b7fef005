"""Remember which sessions of browsers were ended, for all web processes."""

from alembic import op

revision = "20261129_0930"
down_revision = "20261129_0920"


def upgrade() -> None:
    op.execute(
        "CREATE TABLE IF NOT EXISTS ended_sessions ("
        " id text NOT NULL CONSTRAINT pk_ended_sessions PRIMARY KEY,"
        " ended_at timestamptz NOT NULL DEFAULT now())"
    )


def downgrade() -> None:
    op.execute("DROP TABLE IF EXISTS ended_sessions")
