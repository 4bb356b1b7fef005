"""Check whether rules may delete, and whether what was deleted is gone from the storage and the targets, too."""

from sqlalchemy import text

from service.checks.probe import Check
from service.custody.retention_rules import load_binding_rules
from service.errors import Permanent
from service.formatting import counted
from service.postgres.engine import connect
from service.postgres.removal_tables import TARGET_DUE, TO_REMOVE
from service.resources import Resources

# A removal that is still under way after this time hangs: a long transaction, the storage, or a target is in its way.
_LATE = "interval '1 day'"
_RECEIPTS = "`holdfast receipts list` and the workers' log tell more"


async def check_removals(res: Resources) -> Check:
    """Check for locked objects, and for objects and documents of removed e-mails that should be gone by now.

    Our client cannot ask a bucket whether it locks objects or keeps versions: a lock shows at the first refusal.
    """
    async with connect(res.engine) as conn:
        row = (await conn.execute(_UNDER_WAY)).one()
        try:
            await load_binding_rules(conn)
        except Permanent as exc:
            found = f"retention rules delete nothing: {exc.message.rstrip('.')}"
            return Check("removals", None, found, "docs/errors.md describes rule_unreadable")
    if row.locked:
        advice = f"the storage says: {row.reason}. Holdfast asks again every day; {_RECEIPTS}"
        return Check("removals", None, f"{counted(row.locked, 'object')} cannot be removed", advice)
    if row.objects:
        advice = f"look for a transaction of more than a day in Postgres, and at the storage; {_RECEIPTS}"
        return Check(
            "removals", None, f"{counted(row.objects, 'object')} should have been removed by now", advice
        )
    if row.documents and res.targets:
        advice = f"check the targets ({row.code or 'no error is known'}); {_RECEIPTS}"
        return Check(
            "removals", None, f"{counted(row.documents, 'document')} should have been deleted by now", advice
        )
    return Check("removals", True, "what was deleted is gone, or about to go")


_UNDER_WAY = text(f"""
SELECT object.*, document.* FROM (
    SELECT count(*) FILTER (WHERE state = 'locked') AS locked, min(reason) FILTER (WHERE state = 'locked') AS reason,
        count(*) FILTER (WHERE state <> 'locked' AND requested_at < now() - {_LATE}) AS objects
    FROM objects_to_remove WHERE {TO_REMOVE}
) AS object, (
    SELECT count(*) AS documents, min(target_error_code) AS code
    FROM removed_emails WHERE {TARGET_DUE} AND removed_at < now() - {_LATE}
) AS document
""")  # noqa: S608 constants of ours
