"""Reconciliations: open differences, or no reconciliation any more."""

from datetime import timedelta

from sqlalchemy import DateTime, Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import Condition
from service.formatting import duration
from service.reconcile.differences import KIND_LABELS, open_differences

# Reconciliations run hourly, so a longer gap means that something prevents them.
LIMIT = timedelta(hours=3)


async def find(conn: AsyncConnection, reconcile_hours: int) -> list[Condition]:
    """Report open differences, and reconciliations that do not run."""
    conditions = []
    open_now = await open_differences(conn)
    if open_now.total:
        found = ", ".join(
            f"{count:,} {KIND_LABELS[kind]}" for kind, count in open_now.by_kind.items() if count
        )
        least = "At least " if open_now.may_be_more else ""
        detail = (
            f"{least}{open_now.total:,} difference{'' if open_now.total == 1 else 's'} between Holdfast and the target or"
            f" the storage: {found}.\n"
            "`holdfast reconcile list` shows the runs. `holdfast reconcile --fix` repairs differences,"
            " `holdfast storage verify --fix` those that a verification found. After another repair,"
            " `holdfast reconcile` closes them. What nobody can repair is dismissed on the page of its run."
        )
        conditions.append(
            Condition(
                "reconciliation",
                "",
                open_now.total,
                "The target or the storage differs from Holdfast",
                detail,
            )
        )
    late = {"limit": LIMIT, "compared_at": open_now.compared_at}
    if reconcile_hours and (ago := await conn.scalar(_LATE, late)) is not None:
        detail = (
            f"No reconciliation has made progress for {duration(ago)}; workers run one each hour.\n"
            "`holdfast reconcile list` and the log of a worker show why the last one failed."
        )
        conditions.append(Condition("reconciliation", "late", 1, "Reconciliations do not run", detail))
    return conditions


# Without any worker for so long, another alert is open.
_LATE = text("""
SELECT age FROM (
    SELECT now() - coalesce(
        :compared_at, (SELECT min(started_at) FROM workers WHERE seen_at > now() - :limit)
    ) AS age
) AS newest
WHERE age > :limit AND EXISTS (
        SELECT FROM workers WHERE started_at < now() - :limit AND seen_at > now() - :limit
    )
    AND EXISTS (SELECT FROM workers WHERE stopped_at IS NULL AND seen_at > now() - interval '1 minute')
""").bindparams(bindparam("limit", type_=Interval()), bindparam("compared_at", type_=DateTime(timezone=True)))
