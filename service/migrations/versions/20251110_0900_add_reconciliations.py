"""Add reconciliations and what they find, and let alerts tell of them."""

import sqlalchemy as sa
from alembic import op

revision = "20251110_0900"
down_revision = "20251103_0920"

NOW = sa.func.now()
CAUSES = ("failures", "quarantine", "waiting", "silence", "signatures", "workers", "no_worker", "sync")
COUNTS = ("emails", "documents", "objects", "bytes", "unfinished", "overdue", "not_synced")


def upgrade() -> None:
    op.create_table(
        "reconciliations",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("fix", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True)),
        sa.Column("part", sa.Integer()),
        sa.Column("targets", sa.Text()),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        *(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in COUNTS),
        *(sa.Column(name, sa.JSON(), server_default="{}", nullable=False) for name in ("counts", "repaired")),
        sa.Column("error_code", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("megabytes_per_second", sa.Integer()),
        sa.Column("place", sa.Text()),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        _one_of("reconciliations", "kind", ("reconcile", "verify")),
        _one_of("reconciliations", "status", ("running", "done", "failed", "abandoned", "cancelled")),
        _one_of("reconciliations", "fix", ("nothing", "syncs", "all")),
        sa.PrimaryKeyConstraint("id", name="pk_reconciliations"),
        if_not_exists=True,
    )
    op.create_table(
        "reconciliation_findings",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("reconciliation_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("email_id", sa.BigInteger()),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("repair", sa.Text()),
        sa.Column("repaired_at", sa.DateTime(timezone=True)),
        _one_of(
            "reconciliation_findings",
            "kind",
            (
                *("missing", "different", "ahead", "extra", "object_missing", "object_damaged"),
                *("foreign", "unclaimed"),
            ),
        ),
        sa.ForeignKeyConstraint(
            ["reconciliation_id"],
            ["reconciliations.id"],
            name="fk_reconciliation_findings_reconciliation_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_reconciliation_findings"),
        if_not_exists=True,
    )
    _let_causes_be((*CAUSES, "reconciliation"))


def downgrade() -> None:
    op.execute("DELETE FROM alert_deliveries USING alerts WHERE alert_id = id AND cause = 'reconciliation'")
    op.execute("DELETE FROM alerts WHERE cause = 'reconciliation'")
    _let_causes_be(CAUSES)
    op.drop_table("reconciliation_findings")
    op.drop_table("reconciliations")


def _one_of(table: str, column: str, words: tuple[str, ...]) -> sa.CheckConstraint:
    return sa.CheckConstraint(
        f"{column} IN ({', '.join(map(repr, words))})", name=op.f(f"ck_{table}_{column}")
    )


def _let_causes_be(words: tuple[str, ...]) -> None:
    """Change the words; alerts are few, and so each can be looked at meanwhile."""
    op.execute("ALTER TABLE alerts DROP CONSTRAINT ck_alerts_cause")
    op.execute(
        f"ALTER TABLE alerts ADD CONSTRAINT ck_alerts_cause CHECK (cause IN ({', '.join(map(repr, words))}))"
    )
