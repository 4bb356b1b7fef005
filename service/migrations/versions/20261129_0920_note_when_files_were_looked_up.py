"""Note when Zendesk's API told which files an e-mail has, so that no later attempt has to ask again."""

from alembic import op

revision = "20261129_0920"
down_revision = "20261129_0910"


def upgrade() -> None:
    op.execute("ALTER TABLE incoming_emails ADD COLUMN IF NOT EXISTS looked_up_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE incoming_emails DROP COLUMN IF EXISTS looked_up_at")
