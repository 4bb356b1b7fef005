"""Add the evidence log: facts, their places in a Merkle tree, signed heads, and verifications."""

import sqlalchemy as sa
from alembic import op

revision = "20261202_0400"
down_revision = "20261202_0310"

TIME = sa.DateTime(timezone=True)
NEXT_ENTRY = (
    "CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('evidence_entries_id_seq'::regclass) END"
)
TABLES = (
    "evidence_verifications",
    "evidence_heads",
    "evidence_log",
    "evidence_nodes",
    "evidence_leaves",
    "evidence_entries",
)


def upgrade() -> None:
    op.execute("CREATE SEQUENCE IF NOT EXISTS evidence_entries_id_seq")
    op.create_table(
        "evidence_entries",
        sa.Column("id", sa.BigInteger, server_default=sa.text(NEXT_ENTRY), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("email_id", sa.BigInteger),
        sa.Column("subject", sa.BigInteger),
        sa.Column("salt", sa.LargeBinary, server_default=sa.text("uuid_send(gen_random_uuid())")),
        sa.Column("facts", sa.Text),
        sa.Column("hash", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_evidence_entries"),
        if_not_exists=True,
    )
    op.execute("ALTER SEQUENCE evidence_entries_id_seq OWNED BY evidence_entries.id")
    _create_tree()
    _create_heads()


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table, if_exists=True)
    op.execute("DROP SEQUENCE IF EXISTS evidence_entries_id_seq")


def _create_tree() -> None:
    op.create_table(
        "evidence_leaves",
        sa.Column("index", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("entry_id", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("index", name="pk_evidence_leaves"),
        sa.UniqueConstraint("entry_id", name="uq_evidence_leaves_entry_id"),
        if_not_exists=True,
    )
    op.create_table(
        "evidence_nodes",
        sa.Column("level", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("index", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("level", "index", name="pk_evidence_nodes"),
        if_not_exists=True,
    )
    op.create_table(
        "evidence_log",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("log_id", sa.Text, nullable=False),
        sa.Column("began_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("private_key", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("peaks", sa.LargeBinary, nullable=False),
        sa.Column("low", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("next_low", sa.BigInteger),
        sa.Column("next_xid", sa.BigInteger),
        sa.Column("later_place", sa.JSON),
        sa.Column("later_done_at", TIME),
        sa.Column("head_at", TIME),
        sa.Column("mailed_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_evidence_log"),
        if_not_exists=True,
    )


def _create_heads() -> None:
    op.create_table(
        "evidence_heads",
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("object_key", sa.Text),
        sa.Column("stored_at", TIME),
        sa.Column("mailed_at", TIME),
        sa.Column("stamp", sa.LargeBinary),
        sa.Column("stamped_at", TIME),
        sa.Column("stamp_error", sa.Text),
        sa.PrimaryKeyConstraint("number", name="pk_evidence_heads"),
        if_not_exists=True,
    )
    op.create_table(
        "evidence_verifications",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("began_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("ended_at", TIME),
        sa.Column("with_objects", sa.Boolean, nullable=False),
        sa.Column("place", sa.JSON, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("findings", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_evidence_verifications"),
        if_not_exists=True,
    )
