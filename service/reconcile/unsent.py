"""Find finished e-mails that were never sent to a webhook: what its receiver has cannot be read, what we sent is known."""

from sqlalchemy import false

from service.reconcile import record, repair
from service.reconcile.calls import ask
from service.reconcile.differences import close, sent_by_now, unsent_in_target
from service.reconcile.documents import Comparison
from service.reconcile.expected import STEP, unsynced_from
from service.reconcile.finding import Finding, Run
from service.resources import Resources


async def compare_unsent(res: Resources, run: Run, span: tuple[int, int]) -> None:
    """Note the e-mails of these ids that were never sent; where the run puts things right, their syncs begin."""
    place, last = span
    while place < last:
        step = await _look(res, place, last)
        place = step.end
        await _note(res, run, step)
    await ask(res, lambda conn: close(conn, run.id, sent_by_now()))


async def forget_unsent(res: Resources, run: Run) -> None:
    """Close what runs found of a webhook that is no target any more."""
    await ask(res, lambda conn: close(conn, run.id, unsent_in_target()))


async def _look(res: Resources, first: int, last: int) -> Comparison:
    states = await ask(res, lambda conn: unsynced_from(conn, first, last))
    step = Comparison(states[-1].email_id + 1 if len(states) == STEP else last)
    # A sync that failed is known, and counted.
    for state in (each for each in states if each.status == "not_applicable"):
        detail = {"version": state.version}
        step.findings.append(Finding("not_sent", state.key, state.email_id, detail, found_key=state.key))
        step.wrong[state.key] = state
    return step


async def _note(res: Resources, run: Run, step: Comparison) -> None:
    findings = step.findings
    if not findings:
        return
    await ask(res, lambda conn: record.save(conn, run, []))  # a run that was given up begins nothing
    if run.fix != "nothing":
        findings = await repair.begin_syncs(res, findings, step.wrong)
    kept = run.totals.add(findings)
    await ask(res, lambda conn: record.save(conn, run, kept))
    await ask(res, lambda conn: close(conn, run.id, false(), kept))
