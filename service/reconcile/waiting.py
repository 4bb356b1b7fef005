"""What a run began to put right, and is not over yet."""

from sqlalchemy import text

from service.reconcile.patience import ask
from service.resources import Resources


async def count_begun(res: Resources, run_id: int) -> int:
    """Count the e-mails of a run's repairs whose job or sync is under way still, as far as its findings are kept."""
    return int(await ask(res, lambda conn: conn.scalar(_BEGUN, {"run": run_id})) or 0)


_BEGUN = text("""
SELECT count(DISTINCT email.id) FROM reconciliation_findings AS finding
JOIN incoming_emails AS email ON email.id = finding.email_id
WHERE reconciliation_id = :run AND repair IS NOT NULL
    AND (email.processing_status NOT IN ('completed', 'failed') OR email.sync_status = 'pending')
""")
