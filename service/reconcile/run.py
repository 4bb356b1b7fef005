"""One reconciliation: compare target and storage with Postgres, save and repair differences."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import ColumnElement

from service.errors import HoldfastError, Rejected, refuse_future
from service.reconcile import record, repair
from service.reconcile.calls import with_retries
from service.reconcile.contents import BEFORE_ALL
from service.reconcile.differences import (
    close,
    documents_of,
    extra_documents,
    objects_of,
    objects_under,
    whole_target,
)
from service.reconcile.documents import Comparison, compare_step, compare_without_email_id
from service.reconcile.expected import bounds, count_waiting
from service.reconcile.finding import Finding, Fix, ReportProgress, Run
from service.reconcile.objects import ObjectComparison, compare_range, compare_since, is_unused
from service.reconcile.repair import REMOVED
from service.reconcile.unsent import compare_unsent, forget_unsent
from service.resources import Resources
from service.storage import objects
from service.storage.interface import RANGES
from service.targets.mongodb import Collection
from service.targets.target import collection_of, endpoint_of
from service.telemetry.metrics import RECONCILIATIONS

ABANDON_SECONDS = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Scope and repairs of a run; `force` repairs even if the target or the storage looks like another one."""

    actor: str
    since: datetime | None = None
    fix: Fix = "nothing"
    force: bool = False


async def reconcile(res: Resources, options: RunOptions, report: ReportProgress) -> int:
    """Compare all e-mails, or those since a time; return the id of the run. Raises Rejected (409) if one is running."""
    refuse_future(options.since)
    begin = partial(
        record.begin, actor=options.actor, fix=options.fix, since=options.since, targets=target_names(res)
    )
    if (run := await res.insist(begin)) is None:
        raise Rejected(
            409, "already_running", "A reconciliation is running; `holdfast reconcile list` shows it."
        )
    await execute(res, replace(run, force=options.force), report)
    return run.id


async def execute(res: Resources, run: Run, report: ReportProgress) -> None:
    """Execute a run and end it in any case; unexpected errors are raised after that."""
    log.info("reconciliation_begun", run=run.id, since=run.since and run.since.isoformat(), part=run.part)
    try:
        await _compare(res, run, report)
    except asyncio.CancelledError:
        await _abandon(res, run)
        raise
    except HoldfastError as exc:
        await _end(res, run, (exc.code, exc.message))
    except Exception as exc:
        log.exception("reconciliation_failed", run=run.id)
        await _end(res, run, ("internal_error", f"Unexpected {type(exc).__name__}, see the log."))
        raise
    else:
        await _end(res, run)


async def cancel(res: Resources, run_id: int, actor: str) -> None:
    """Cancel a run; raises Rejected if it does not exist (404) or has ended (409)."""
    status = await res.insist(lambda conn: record.cancel(conn, run_id))
    if status is None:
        raise Rejected(404, "reconciliation_not_found", f"There is no reconciliation {run_id}.")
    if status != "running":
        raise Rejected(409, "not_running", f"Run {run_id} is {status} already.")
    log.info("reconciliation_cancelled", run=run_id, actor=actor)


def target_names(res: Resources) -> str | None:
    """Return the names of the targets; None without any."""
    return ", ".join(target.name for target in res.targets) or None


async def _compare(res: Resources, run: Run, report: ReportProgress) -> None:
    totals = run.totals
    await res.insist(record.trim)
    first, last = await res.insist(lambda conn: bounds(conn, run.since))
    if res.targets:
        waiting, totals.overdue, totals.not_synced = await res.insist(lambda conn: count_waiting(conn, first))
        # With a collection, pending syncs are counted during the comparison.
        totals.unfinished = 0 if collection_of(res.targets) else waiting
        await _save(res, run, [])
    await _compare_targets(res, run, (first, last), report)
    if await is_unused(res):
        return
    if run.since is not None and run.part is None:
        place: tuple[int, int] | None = (first, BEFORE_ALL)
        reported: set[str] = set()
        while place is not None:
            result, place = await compare_since(res, *place, reported)
            await _save_objects(res, run, result, objects_of(result.keys, were_read=False))
            report(75, totals)
        return
    prefixes = await objects.ranges(res.storage) if run.part is None else part_of_storage(run.part)
    for number, prefix in enumerate(prefixes):
        await _save_objects(res, run, await compare_range(res, prefix), objects_under(prefix))
        report(50 + 50 * (number + 1) // len(prefixes), totals)


def part_of_storage(part: int) -> Sequence[str]:
    """Return the ranges of keys that belong to a part of the storage."""
    count = len(RANGES)
    return RANGES[count * part // record.PARTS : count * (part + 1) // record.PARTS]


async def _compare_targets(res: Resources, run: Run, span: tuple[int, int], report: ReportProgress) -> None:
    """Compare documents in the collection, and find e-mails that were never sent to the webhook.

    An hourly run closes the findings of a target that is no longer set. A command does not, because its environment
    may lack SYNC_URL.
    """
    if target := collection_of(res.targets):
        await _compare_documents(res, run, target, span, report)
    elif run.part is not None:
        await res.insist(lambda conn: close(conn, run.id, whole_target()))
    if endpoint_of(res.targets):
        await compare_unsent(res, run, span)
    elif run.part is not None:
        await forget_unsent(res, run)


async def _compare_documents(
    res: Resources, run: Run, target: Collection, span: tuple[int, int], report: ReportProgress
) -> None:
    await with_retries(target.prepare)
    first, last = place, _ = span
    while place < last:
        step = await compare_step(res, target, place, last, is_whole=run.since is None)
        await _save_step(res, run, target, step, documents_of(place, step.end))
        place = step.end
        report(50 * (place - first) // (last - first), run.totals)
    if run.since is None:
        await _save_step(res, run, target, await compare_without_email_id(res, target), extra_documents())


async def _save_step(
    res: Resources, run: Run, target: Collection, step: Comparison, compared: ColumnElement[bool]
) -> None:
    totals = run.totals
    totals.emails += step.emails
    totals.documents += step.documents
    totals.unfinished += step.unfinished
    findings, removable = step.findings, []
    if run.fix == "all":
        removable = [each for each in findings if each.kind in REMOVED]
        findings = [each for each in findings if each.kind not in REMOVED]
    # Raises if the run was abandoned, before any repair.
    await _save(res, run, [])
    if run.fix != "nothing" and findings:
        findings = await repair.begin_syncs(res, findings, step.wrong)
    await _save(res, run, findings)
    if removable:
        await repair.remove_documents(res, target, run, removable, step.wrong)
        await _save(res, run, [])
    await res.insist(lambda conn: close(conn, run.id, compared, step.findings))


async def _save_objects(
    res: Resources, run: Run, result: ObjectComparison, compared: ColumnElement[bool]
) -> None:
    totals = run.totals
    totals.objects += result.objects
    totals.bytes += result.bytes
    findings = result.findings
    if run.fix == "all" and result.lost:
        await _save(res, run, [])
        findings = await repair.reopen_files(res, findings, result.lost, force=run.force)
    await _save(res, run, findings)
    await res.insist(lambda conn: close(conn, run.id, compared, findings))


async def _save(res: Resources, run: Run, findings: list[Finding]) -> None:
    kept = run.totals.add(findings)
    await res.insist(lambda conn: record.save(conn, run, kept))


async def _end(res: Resources, run: Run, why: tuple[str, str] | None = None) -> None:
    """End a run as done, or as failed with a code and an error."""
    status, (code, error) = "failed" if why else "done", why or (None, None)
    ended = await res.insist(lambda conn: record.end(conn, run.id, status, code, error))
    outcome = status if ended else "lost"
    RECONCILIATIONS.labels(outcome).inc()
    log.info("reconciliation_ended", run=run.id, outcome=outcome, code=code, found=dict(run.totals.counts))


async def _abandon(res: Resources, run: Run) -> None:
    """End a cancelled run as abandoned, so the next can begin; in a new task, because this one is cancelled."""
    stopped = asyncio.ensure_future(
        res.insist(
            lambda conn: record.end(conn, run.id, "abandoned", "stopped", "The process was stopped."),
        )
    )
    stopped.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.wait({stopped}, timeout=ABANDON_SECONDS)
    RECONCILIATIONS.labels("abandoned").inc()
