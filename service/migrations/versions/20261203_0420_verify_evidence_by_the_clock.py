"""Let one worker verify the evidence log at a time, and allow alerts of what it finds."""

from alembic import op

revision = "20261203_0420"
down_revision = "20261203_0410"

CAUSES = (
    *("failures", "quarantine", "waiting", "silence", "signatures", "workers", "no_worker", "sync"),
    *("reconciliation", "credentials", "zendesk", "connections", "lost", "backfill", "suspended", "drift"),
)


def upgrade() -> None:
    op.execute("ALTER TABLE evidence_verifications ADD COLUMN IF NOT EXISTS lease_until timestamptz")
    _allow((*CAUSES, "evidence"))


def downgrade() -> None:
    op.execute("DELETE FROM alert_deliveries USING alerts WHERE alert_id = id AND cause = 'evidence'")
    op.execute("DELETE FROM alerts WHERE cause = 'evidence'")
    _allow(CAUSES)
    op.execute("ALTER TABLE evidence_verifications DROP COLUMN IF EXISTS lease_until")


def _allow(causes: tuple[str, ...]) -> None:
    """Replace the list of causes; alerts are few, and so Postgres checks all of them at once."""
    words = ", ".join(map(repr, causes))
    op.execute(
        "ALTER TABLE alerts DROP CONSTRAINT IF EXISTS ck_alerts_cause,"
        f" ADD CONSTRAINT ck_alerts_cause CHECK (cause IN ({words}))"
    )
