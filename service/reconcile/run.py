"""One run: compare the target and the storage with Postgres, tell what differs, put right what may be, keep a record of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import ColumnElement

from service.errors import HoldfastError, Rejected
from service.reconcile import record, repair
from service.reconcile.differences import (
    close,
    documents_of,
    extra_documents,
    objects_of,
    objects_under,
    whole_target,
)
from service.reconcile.documents import Step, compare_nameless, compare_step
from service.reconcile.expected import bounds, count_waiting
from service.reconcile.finding import Finding, Fix, Run, Tell
from service.reconcile.objects import Look, compare_range, compare_since, has_nothing
from service.reconcile.outages import ask, patiently
from service.reconcile.repair import REMOVED
from service.reconcile.unsent import compare_unsent, forget_unsent
from service.resources import Resources
from service.storage import objects
from service.storage.port import RANGES
from service.targets.mongodb import Collection
from service.targets.target import collection_of, endpoint_of
from service.telemetry.metrics import RECONCILIATIONS

GOODBYE_SECONDS = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants compared, and put right; forced also where it looks like another place."""

    actor: str
    since: datetime | None = None
    fix: Fix = "nothing"
    force: bool = False


async def reconcile(res: Resources, wish: Wish, tell: Tell) -> int:
    """Compare all, or what came since then; return the id of the run, of which the record tells the rest.

    Raises Rejected (409) if one is running.
    """
    begin = partial(record.begin, actor=wish.actor, fix=wish.fix, since=wish.since, targets=targets(res))
    if (run := await ask(res, begin)) is None:
        raise Rejected(
            409, "already_running", "A reconciliation is running; `holdfast reconcile list` shows it."
        )
    await carry_out(res, replace(run, force=wish.force), tell)
    return run.id


async def carry_out(res: Resources, run: Run, tell: Tell) -> None:
    """Do what a run is to do, and end it, whatever happens; raises what nobody expected."""
    log.info("reconciliation_begun", run=run.id, since=run.since and run.since.isoformat(), part=run.part)
    try:
        await _compare(res, run, tell)
    except asyncio.CancelledError:
        await _say_goodbye(res, run)
        raise
    except HoldfastError as exc:
        await _end(res, run, (exc.code, exc.message))
    except Exception as exc:
        log.exception("reconciliation_broke", run=run.id)
        await _end(res, run, ("internal_error", f"Unexpected {type(exc).__name__}, see the log."))
        raise
    else:
        await _end(res, run)


async def cancel(res: Resources, run_id: int, actor: str) -> None:
    """Let a run end; raises Rejected if there is none (404), or it is over (409)."""
    status = await ask(res, lambda conn: record.cancel(conn, run_id))
    if status is None:
        raise Rejected(404, "reconciliation_not_found", f"There is no reconciliation {run_id}.")
    if status != "running":
        raise Rejected(409, "not_running", f"Run {run_id} is {status} already.")
    log.info("reconciliation_cancelled", run=run_id, actor=actor)


def targets(res: Resources) -> str | None:
    """Name the targets that there are."""
    return ", ".join(target.name for target in res.targets) or None


async def _compare(res: Resources, run: Run, tell: Tell) -> None:
    seen = run.seen
    await ask(res, record.trim)
    first, last = await ask(res, lambda conn: bounds(conn, run.since))
    if res.targets:
        waiting, seen.overdue, seen.not_synced = await ask(res, lambda conn: count_waiting(conn, first))
        # Of a collection they are counted as they are compared.
        seen.unfinished = 0 if collection_of(res.targets) else waiting
        await _save(res, run, [])
    await _compare_targets(res, run, (first, last), tell)
    if await has_nothing(res):
        return
    if run.since is not None and run.part is None:
        place: tuple[int, int] | None = (first, -1)
        told_of: set[str] = set()
        while place is not None:
            look, place = await compare_since(res, *place, told_of)
            await _note_objects(res, run, look, objects_of(look.keys, were_read=False))
            tell(75, seen)
        return
    prefixes = await objects.ranges(res.storage) if run.part is None else part_of_storage(run.part)
    for number, prefix in enumerate(prefixes):
        await _note_objects(res, run, await compare_range(res, prefix), objects_under(prefix))
        tell(50 + 50 * (number + 1) // len(prefixes), seen)


def part_of_storage(part: int) -> Sequence[str]:
    """Give the ranges of keys that a run of an hour looks at."""
    count = len(RANGES)
    return RANGES[count * part // record.PARTS : count * (part + 1) // record.PARTS]


async def _compare_targets(res: Resources, run: Run, span: tuple[int, int], tell: Tell) -> None:
    """Compare the documents of a collection, and find what was never sent to a webhook.

    Where workers have no such target, there is none; whoever types a command may have left it out.
    """
    if there := collection_of(res.targets):
        await _compare_documents(res, run, there, span, tell)
    elif run.part is not None:
        await ask(res, lambda conn: close(conn, run.id, whole_target()))
    if endpoint_of(res.targets):
        await compare_unsent(res, run, span)
    elif run.part is not None:
        await forget_unsent(res, run)


async def _compare_documents(
    res: Resources, run: Run, there: Collection, span: tuple[int, int], tell: Tell
) -> None:
    await patiently(there.prepare)
    first, last = place, _ = span
    while place < last:
        step = await compare_step(res, there, place, last, is_whole=run.since is None)
        await _note_step(res, run, there, step, documents_of(place, step.end))
        place = step.end
        tell(50 * (place - first) // (last - first), run.seen)
    if run.since is None:
        await _note_step(res, run, there, await compare_nameless(res, there), extra_documents())


async def _note_step(
    res: Resources, run: Run, there: Collection, step: Step, looked: ColumnElement[bool]
) -> None:
    seen = run.seen
    seen.emails += step.emails
    seen.documents += step.documents
    seen.unfinished += step.unfinished
    findings, removable = step.findings, []
    if run.fix == "all":
        removable = [each for each in findings if each.kind in REMOVED]
        findings = [each for each in findings if each.kind not in REMOVED]
    await _save(res, run, [])  # who was given up begins nothing
    if run.fix != "nothing" and findings:
        findings = await repair.begin_syncs(res, findings, step.wrong)
    await _save(res, run, findings)
    if removable:
        await repair.remove_documents(res, there, run, removable, step.wrong)
        await _save(res, run, [])
    await ask(res, lambda conn: close(conn, run.id, looked, step.findings))


async def _note_objects(res: Resources, run: Run, look: Look, looked: ColumnElement[bool]) -> None:
    seen = run.seen
    seen.objects += look.objects
    seen.bytes += look.bytes
    findings = look.findings
    if run.fix == "all" and look.lost:
        await _save(res, run, [])
        findings = await repair.reopen_files(res, findings, look.lost, force=run.force)
    await _save(res, run, findings)
    await ask(res, lambda conn: close(conn, run.id, looked, findings))


async def _save(res: Resources, run: Run, findings: list[Finding]) -> None:
    kept = run.seen.note(findings)
    await ask(res, lambda conn: record.save(conn, run, kept))


async def _end(res: Resources, run: Run, why: tuple[str, str] | None = None) -> None:
    """End it: done, or failed for a reason."""
    status, (code, error) = "failed" if why else "done", why or (None, None)
    ended = await ask(res, lambda conn: record.end(conn, run.id, status, code, error))
    outcome = status if ended else "lost"
    RECONCILIATIONS.labels(outcome).inc()
    log.info("reconciliation_ended", run=run.id, outcome=outcome, code=code, found=dict(run.seen.counts))


async def _say_goodbye(res: Resources, run: Run) -> None:
    """Note that it was broken off, for the next one to begin at once; a task of its own, for this one is cancelled."""
    stopped = asyncio.ensure_future(
        ask(
            res,
            lambda conn: record.end(conn, run.id, "abandoned", "stopped", "It was stopped before its end."),
        )
    )
    stopped.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.wait({stopped}, timeout=GOODBYE_SECONDS)
    RECONCILIATIONS.labels("abandoned").inc()
