"""What was compared with what is on record, and when: nothing is said of what no run looked at."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, computed_field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.config.settings import Settings
from service.formatting import duration, number
from service.postgres.email_tables import NOT_CAPTURED, TO_SYNC, UNSYNCED
from service.queries.views import View
from service.reconcile.differences import MOST_KEPT, WORDS, open_differences

COUNT_CAP = 10_000
PARTS = 24


class ComparisonView(View):
    """What the newest comparison looked at, what differs by now, and what cannot be compared."""

    run_id: int | None = Field(description="The newest reconciliation that is done; null: there was none")
    at: datetime | None = Field(description="When it was done")
    compared: Sequence[str] = Field(description="What it compared, in words")
    target: Literal["compared", "not_compared", "cannot_be_compared", "none"] = Field(
        description="Whether it compared documents in the target; what a webhook's receiver has cannot be read"
    )
    storage_parts: int = Field(description="Of 24 parts of the storage, those compared in the last 25 hours")
    whole_at: datetime | None = Field(description="When the documents of all e-mails were compared last")
    differences: Mapping[str, int] = Field(description="What runs found and nobody put right since, by kind")
    pending: int = Field(description="Finished e-mails that are on their way to the target")
    unsynced: int = Field(
        description="Finished e-mails that are neither synced nor on their way: their sync failed, or there was no target"
    )
    capped: bool = Field(description="Whether there may be more of these, or more that differs")
    not_sent: int | None = Field(
        description="Both together, where a webhook is among the targets: what its receiver has cannot be read"
    )
    not_captured: int = Field(
        description="Completed e-mails of another system with files that were never fetched; at most 10,000 are counted"
    )
    failed_run_id: int | None = Field(description="A later reconciliation that failed")
    is_hourly: bool = Field(description="Whether workers compare each hour")

    @computed_field(description="All of it, in sentences")  # type: ignore[prop-decorator]
    @property
    def summary(self) -> Sequence[str]:
        return _summary(self)


async def comparison_of(conn: AsyncConnection, settings: Settings) -> ComparisonView:
    """Tell what was compared, under these settings."""
    row = (await conn.execute(_NEWEST)).one_or_none()
    run: Mapping[str, Any] | None = row._asdict() if row else None
    around = (await conn.execute(_AROUND)).one()
    unsent = (await conn.execute(_UNSENT)).one()
    found = await open_differences(conn)
    targets = _targets(settings)
    return ComparisonView(
        run_id=run and run["id"],
        at=run and run["finished_at"],
        compared=scope_of(run) if run else [],
        target=_target(targets, run),
        storage_parts=around.parts,
        whole_at=around.whole_at,
        differences={kind: count for kind, count in found.by_kind.items() if count},
        pending=unsent.pending,
        unsynced=unsent.unsynced,
        capped=COUNT_CAP in (unsent.unsynced, unsent.pending) or found.may_be_more,
        not_sent=unsent.unsynced + unsent.pending if "webhook" in targets else None,
        not_captured=await count_not_captured(conn),
        failed_run_id=around.failed_id,
        is_hourly=settings.reconcile_hours > 0,
    )


async def count_not_captured(conn: AsyncConnection) -> int:
    """Count the completed e-mails of another system that lack files, up to a cap."""
    return await conn.scalar(_NOT_CAPTURED) or 0


def not_captured(count: int) -> Sequence[str]:
    """Say what is the matter with such e-mails, and what to do."""
    if not count:
        return []
    have = (
        "1 completed e-mail has"
        if count == 1
        else f"{number(count, count >= COUNT_CAP)} completed e-mails have"
    )
    how = "`holdfast emails retry --all --error-code not_captured` fetches them"
    return [f"{have} files of the previous system that were not captured: {how}."]


def scope_of(run: Mapping[str, Any]) -> Sequence[str]:
    """Name what a run compared, or verified, with what is on record."""
    since = run["since"]
    emails = "all e-mails" if since is None else f"e-mails {_since(run)}"
    if run["kind"] == "verify":
        return [f"the stored bytes of {emails}"]
    parts = []
    if "mongodb" in (run["targets"] or ""):
        parts.append(f"{emails} with MongoDB")
    if run["part"] is not None:
        parts.append(f"part {run['part'] + 1} of {PARTS} of the storage")
    else:
        parts.append("the whole storage" if since is None else f"the stored files of {emails}")
    return parts


def _since(run: Mapping[str, Any]) -> str:
    if run["part"] is None:
        return f"received since {run['since'].astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    hours = round((run["started_at"] - run["since"]).total_seconds() / 3600)
    return f"of the last {hours} hours" if hours != 1 else "of the last hour"


def _targets(settings: Settings) -> Sequence[str]:
    urls = (url.get_secret_value() for url in settings.sync_url)
    return ["mongodb" if url.startswith("mongodb") else "webhook" for url in urls]


def _target(
    targets: Sequence[str], run: Mapping[str, Any] | None
) -> Literal["compared", "not_compared", "cannot_be_compared", "none"]:
    if not targets:
        return "none"
    if "mongodb" not in targets:
        return "cannot_be_compared"
    return "compared" if run and "mongodb" in (run["targets"] or "") else "not_compared"


def _summary(view: ComparisonView) -> Sequence[str]:
    if view.at is None:
        when = "a worker does it each hour" if view.is_hourly else "RECONCILE_HOURS is 0"
        said = [f"Not compared yet: {when}."]
    else:
        ago = duration(max(0.0, (datetime.now(UTC) - view.at).total_seconds()))
        said = [f"Compared {ago} ago: {' and '.join(view.compared)}."]
    if view.failed_run_id:
        said.append(f"A later comparison failed: reconciliation {view.failed_run_id}.")
    if view.differences:
        said.append(f"{_found(view)}.")
    elif view.at is not None:
        said.append("Nothing differs there.")
    return [*said, *_uncompared(view)]


def _found(view: ComparisonView) -> str:
    found = ", ".join(f"{count:,} {WORDS[kind]}" for kind, count in view.differences.items())
    return f"At least {found}" if sum(view.differences.values()) >= MOST_KEPT else f"Differs: {found}"


def _uncompared(view: ComparisonView) -> Sequence[str]:
    """Say what was left out."""
    said = []
    if view.target == "not_compared":
        said.append("MongoDB was not compared yet.")
    elif view.target == "compared" and "all e-mails with MongoDB" not in view.compared:
        when = f"{view.whole_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if view.whole_at else ""
        said.append(
            f"Older e-mails were compared last at {when}." if when else "Older e-mails were never compared."
        )
    if view.at is not None and view.storage_parts < PARTS:
        said.append(
            f"{view.storage_parts} of {PARTS} parts of the storage were compared in the last 25 hours."
        )
    if view.not_sent is not None:
        count = number(view.not_sent, view.capped)
        said.append(f"What the webhook's receiver has cannot be compared; {count} not sent yet.")
    elif view.target != "none" and (view.unsynced or view.pending):
        left = f"{number(view.unsynced, view.capped)} not synced, {number(view.pending, view.capped)} on their way"
        said.append(f"Left out: {left}.")
    return said


_NEWEST = text("""
SELECT id, kind, since, part, targets, started_at, finished_at FROM reconciliations
WHERE kind = 'reconcile' AND status = 'done' ORDER BY id DESC LIMIT 1
""")
# Runs are kept for 90 days, in which there are some 2,200. A run over all that was received has no part, and no time.
_AROUND = text(f"""
SELECT (
    SELECT CASE WHEN bool_or(part IS NULL AND since IS NULL) THEN {PARTS} ELSE count(DISTINCT part) END
    FROM reconciliations
    WHERE kind = 'reconcile' AND status = 'done' AND finished_at > now() - interval '25 hours'
) AS parts, (
    SELECT finished_at FROM reconciliations
    WHERE kind = 'reconcile' AND status = 'done' AND part IS NULL AND since IS NULL AND targets LIKE '%mongodb%'
    ORDER BY id DESC LIMIT 1
) AS whole_at, (
    SELECT failed.id FROM (
        SELECT id, status FROM reconciliations WHERE kind = 'reconcile' AND status IN ('done', 'failed')
        ORDER BY id DESC LIMIT 1
    ) AS failed
    WHERE status = 'failed'
) AS failed_id
""")  # noqa: S608 a number of ours
# Limits that the planner does not know make it walk the indexes.
_NOT_CAPTURED = text(f"""
SELECT count(*) FROM (
    SELECT FROM incoming_emails WHERE error_code = '{NOT_CAPTURED}' AND processing_status = 'completed'
    ORDER BY error_code, id LIMIT (SELECT {COUNT_CAP})
) AS counted
""")  # noqa: S608 words and a number of ours
_UNSENT = text(f"""
SELECT (
    SELECT count(*) FROM (
        SELECT FROM incoming_emails WHERE {UNSYNCED} ORDER BY id LIMIT (SELECT {COUNT_CAP})
    ) AS counted
) AS unsynced, (
    SELECT count(*) FROM (
        SELECT FROM incoming_emails WHERE {TO_SYNC} ORDER BY sync_due_at LIMIT (SELECT {COUNT_CAP})
    ) AS counted
) AS pending
""")  # noqa: S608 words and a number of ours
