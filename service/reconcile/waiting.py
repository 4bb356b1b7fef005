"""What a run began to put right, and is not over yet."""

from sqlalchemy import text

from service.reconcile.outages import ask
from service.resources import Resources


async def count_begun(res: Resources, run_id: int) -> int:
    """Count the e-mails of a run's repairs whose job or sync is under way still, as far as its findings are kept."""
    return int(await ask(res, lambda conn: conn.scalar(_BEGUN, {"run": run_id})) or 0)


async def list_failed(res: Resources, run_id: int) -> list[tuple[int, str]]:
    """List e-mails of a run's repairs that are not whole all the same, by id, with the reasons; a hundred at most."""
    rows = await ask(res, lambda conn: conn.execute(_FAILED, {"run": run_id}))
    return [(row.id, row.reason) for row in rows]


_FAILED = text("""
SELECT DISTINCT email.id, CASE email.processing_status WHEN 'failed' THEN email.processing_error ELSE email.sync_error END
    AS reason
FROM reconciliation_findings AS finding
JOIN incoming_emails AS email ON email.id = finding.email_id
WHERE reconciliation_id = :run AND repair IS NOT NULL AND (
    finding.kind LIKE 'object%' AND email.processing_status = 'failed' OR email.sync_status = 'failed'
)
ORDER BY email.id LIMIT 100
""")
_BEGUN = text("""
SELECT count(DISTINCT email.id) FROM reconciliation_findings AS finding
JOIN incoming_emails AS email ON email.id = finding.email_id
WHERE reconciliation_id = :run AND repair IS NOT NULL
    AND (email.processing_status NOT IN ('completed', 'failed') OR email.sync_status = 'pending')
""")
