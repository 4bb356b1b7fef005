"""The newest comparison of target and storage with Postgres, and the differences that are open now."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, computed_field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.config.settings import Settings
from service.formatting import duration, number
from service.postgres.email_tables import OPEN_NOT_CAPTURED, TO_SYNC, UNSYNCED
from service.queries.views import View
from service.reconcile.differences import KIND_LABELS, open_differences
from service.reconcile.finding import MAX_FINDINGS

COUNT_CAP = 10_000
PARTS = 24


class ComparisonView(View):
    """The scope of the newest comparison, the open differences, and e-mails that were not compared."""

    run_id: int | None = Field(description="The newest finished reconciliation; null if there was none")
    at: datetime | None = Field(description="When it finished")
    compared: Sequence[str] = Field(description="Its scope, in words")
    target: Literal["compared", "not_compared", "cannot_be_compared", "none"] = Field(
        description="Whether it compared documents in the target; a webhook's receiver cannot be read"
    )
    storage_parts: int = Field(description="Parts of the storage, of 24, compared in the last 25 hours")
    whole_at: datetime | None = Field(description="When the documents of all e-mails were last compared")
    differences: Mapping[str, int] = Field(description="Open differences by kind")
    pending: int = Field(description="Finished e-mails with a pending sync")
    unsynced: int = Field(description="Finished e-mails without a sync: it failed, or no target was set")
    capped: bool = Field(description="Whether a count or the differences reached their cap")
    not_sent: int | None = Field(
        description="`pending` and `unsynced` together, with a webhook as a target; else null"
    )
    not_captured: int = Field(
        description="Completed e-mails of a previous system with files that were never fetched, counted up to 10,000"
    )
    failed_run_id: int | None = Field(description="A later reconciliation that failed")
    is_hourly: bool = Field(description="Whether workers reconcile each hour")

    @computed_field(description="All this in sentences")  # type: ignore[prop-decorator]
    @property
    def summary(self) -> Sequence[str]:
        return _summary(self)


async def comparison_of(conn: AsyncConnection, settings: Settings) -> ComparisonView:
    """Return the newest comparison under these settings."""
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
    """Count completed e-mails of a previous system with files that were not captured, up to a cap.

    Dismissed ones are left out.
    """
    return await conn.scalar(_NOT_CAPTURED) or 0


def not_captured(count: int) -> Sequence[str]:
    """Return the sentence about files that were not captured, if there are any."""
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
    """Return the scope of a run in words."""
    since = run["since"]
    emails = "all e-mails" if since is None else f"e-mails {_since(run)}"
    if run["kind"] == "verify":
        return [f"the stored files of {emails}, byte by byte"]
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
        when = "a worker reconciles each hour" if view.is_hourly else "RECONCILE_HOURS is 0"
        sentences = [f"Not compared yet: {when}."]
    else:
        ago = duration(max(0.0, (datetime.now(UTC) - view.at).total_seconds()))
        sentences = [f"Compared {ago} ago: {' and '.join(view.compared)}."]
    if view.failed_run_id:
        sentences.append(f"A later reconciliation failed: {view.failed_run_id}.")
    if view.differences:
        sentences.append(f"{_found(view)}.")
    elif view.at is not None:
        sentences.append("No differences.")
    return [*sentences, *_uncompared(view)]


def _found(view: ComparisonView) -> str:
    found = ", ".join(f"{count:,} {KIND_LABELS[kind]}" for kind, count in view.differences.items())
    return f"At least {found}" if sum(view.differences.values()) >= MAX_FINDINGS else f"Differs: {found}"


def _uncompared(view: ComparisonView) -> Sequence[str]:
    """Return sentences about e-mails and parts that were not compared."""
    sentences = []
    if view.target == "not_compared":
        sentences.append("MongoDB was not compared yet.")
    elif view.target == "compared" and "all e-mails with MongoDB" not in view.compared:
        when = f"{view.whole_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if view.whole_at else ""
        sentences.append(
            f"Older e-mails were last compared at {when}." if when else "Older e-mails were never compared."
        )
    if view.at is not None and view.storage_parts < PARTS:
        sentences.append(
            f"{view.storage_parts} of {PARTS} parts of the storage were compared in the last 25 hours."
        )
    if view.not_sent is not None:
        count = number(view.not_sent, view.capped)
        sentences.append(f"A webhook's receiver cannot be compared; {count} not sent yet.")
    elif view.target != "none" and (view.unsynced or view.pending):
        left = f"{number(view.unsynced, view.capped)} not synced, {number(view.pending, view.capped)} pending"
        sentences.append(f"Not compared: {left}.")
    return sentences


_NEWEST = text("""
SELECT id, kind, since, part, targets, started_at, finished_at FROM reconciliations
WHERE kind = 'reconcile' AND status = 'done' ORDER BY id DESC LIMIT 1
""")
# At most some 2,200 runs, of 90 days. A run over all e-mails has neither `part` nor `since`.
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
# Limits in subqueries are unknown to the planner, so it scans the indexes in order.
_NOT_CAPTURED = text(f"""
SELECT count(*) FROM (
    SELECT FROM incoming_emails WHERE {OPEN_NOT_CAPTURED} ORDER BY id LIMIT (SELECT {COUNT_CAP})
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
