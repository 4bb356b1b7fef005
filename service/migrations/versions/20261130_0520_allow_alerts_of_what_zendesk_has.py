"""Allow the causes of alerts about what Zendesk has, and about our webhook there."""

from alembic import op

revision = "20261130_0520"
down_revision = "20261130_0510"

CAUSES = (
    *("failures", "quarantine", "waiting", "silence", "signatures", "workers", "no_worker", "sync"),
    *("reconciliation", "credentials", "zendesk", "connections"),
)
NEW = ("lost", "backfill", "suspended", "drift")


def upgrade() -> None:
    _allow(CAUSES + NEW)


def downgrade() -> None:
    words = _words(NEW)
    op.execute(
        f"DELETE FROM alert_deliveries USING alerts WHERE alert_id = id AND cause IN ({words})"  # noqa: S608 words of ours
    )
    op.execute(f"DELETE FROM alerts WHERE cause IN ({words})")  # noqa: S608 likewise
    _allow(CAUSES)


def _allow(causes: tuple[str, ...]) -> None:
    """Replace the list of causes; alerts are few, and so Postgres checks all of them at once."""
    op.execute(
        "ALTER TABLE alerts DROP CONSTRAINT IF EXISTS ck_alerts_cause,"
        f" ADD CONSTRAINT ck_alerts_cause CHECK (cause IN ({_words(causes)}))"
    )


def _words(causes: tuple[str, ...]) -> str:
    return ", ".join(map(repr, causes))
