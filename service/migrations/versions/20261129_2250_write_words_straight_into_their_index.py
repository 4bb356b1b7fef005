"""Write words straight into their index, and take no statistics of them."""

from alembic import op

revision = "20261129_2250"
down_revision = "20261129_2240"


def upgrade() -> None:
    # A list of pending entries is read from one end to the other by every search, once a block.
    op.execute("ALTER INDEX ix_email_words_words SET (fastupdate = off)")
    # Each word begins with its block, so no word is common in the table.
    op.execute("ALTER TABLE email_words ALTER COLUMN words SET STATISTICS 0")


def downgrade() -> None:
    op.execute("ALTER TABLE email_words ALTER COLUMN words SET STATISTICS -1")
    op.execute("ALTER INDEX ix_email_words_words RESET (fastupdate)")
