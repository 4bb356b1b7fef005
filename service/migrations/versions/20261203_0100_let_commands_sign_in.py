"""Let commands sign in: a login is the named token of a person, of which only hashes are kept."""

import sqlalchemy as sa
from alembic import op

revision = "20261203_0100"
down_revision = "20261202_0410"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "logins",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("user_code", sa.Text),
        sa.Column("begun_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("polled_at", TIME),
        sa.Column("role", sa.Text),
        sa.Column("proof", sa.LargeBinary),
        sa.Column("confirmed_at", TIME),
        sa.Column("confirmed_by", sa.Text),
        sa.Column("ends_at", TIME),
        sa.Column("used_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("revoked_by", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_logins"),
        sa.UniqueConstraint("secret_hash", name="uq_logins_secret_hash"),
        sa.UniqueConstraint("user_code", name="uq_logins_user_code"),
        sa.CheckConstraint(
            "role IN ('operator', 'reader')", name="role"
        ),  # the naming convention adds the prefix
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("logins", if_exists=True)
