"""Find finished e-mails that were never sent to the webhook; Postgres knows this, the receiver cannot be read."""

from sqlalchemy import false

from service.reconcile import record, repair
from service.reconcile.differences import close, sent_by_now, unsent_in_target
from service.reconcile.documents import Comparison
from service.reconcile.expected import STEP, unsynced_from
from service.reconcile.finding import Finding, Run
from service.resources import Resources


async def compare_unsent(res: Resources, run: Run, span: tuple[int, int]) -> None:
    """Save a finding for each unsent e-mail in a span of ids; with repairs, begin their syncs."""
    place, last = span
    while place < last:
        step = await _find(res, place, last)
        place = step.end
        await _save(res, run, step)
    await res.insist(lambda conn: close(conn, run.id, sent_by_now()))


async def forget_unsent(res: Resources, run: Run) -> None:
    """Close findings about a webhook that is no longer a target."""
    await res.insist(lambda conn: close(conn, run.id, unsent_in_target()))


async def _find(res: Resources, first: int, last: int) -> Comparison:
    states = await res.insist(lambda conn: unsynced_from(conn, first, last))
    step = Comparison(states[-1].email_id + 1 if len(states) == STEP else last)
    # Failed syncs are counted elsewhere.
    for state in (each for each in states if each.status == "not_applicable"):
        detail = {"version": state.version}
        step.findings.append(Finding("not_sent", state.key, state.email_id, detail, found_key=state.key))
        step.wrong[state.key] = state
    return step


async def _save(res: Resources, run: Run, step: Comparison) -> None:
    findings = step.findings
    if not findings:
        return
    # Raises if the run was abandoned, before any repair.
    await res.insist(lambda conn: record.save(conn, run, []))
    if run.fix != "nothing":
        findings = await repair.begin_syncs(res, findings, step.wrong)
    kept = run.totals.add(findings)
    await res.insist(lambda conn: record.save(conn, run, kept))
    await res.insist(lambda conn: close(conn, run.id, false(), kept))
