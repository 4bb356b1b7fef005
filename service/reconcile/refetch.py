"""Have what a verification found lost fetched anew; what is damaged is kept, and that is on record, before it goes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service.errors import Permanent, Transient
from service.reconcile import steps
from service.reconcile.calls import ask
from service.reconcile.contents import Content
from service.reconcile.finding import Finding
from service.reconcile.objects import require_storage
from service.reconcile.repair import keep_damaged, remove_damaged, reopen_files
from service.reconcile.steps import StepClaim, StepResult
from service.resources import Resources


async def refetch(res: Resources, claim: StepClaim, step: StepResult, lost: list[Content]) -> None:
    """Have the contents fetched again that a step found lost, and tell the step what was done.

    What cannot be set aside stays as it is, with the reason. Raises LeaseLost.
    """
    contents = {each.key: each for each in lost}
    known = await ask(res, lambda conn: steps.recorded_details(conn, claim, [*contents]))
    told: list[Finding] = []
    for finding in {each.key: each for each in step.findings}.values():
        content = contents.get(finding.key)
        if content is None or finding.detail.get("size") != content.size:
            told.append(_remembered(finding, known))
        elif kept := await _set_aside(res, claim, finding, content):
            told.append(kept)
    ready = [contents[each.key] for each in told if each.key in contents and "reason" not in each.detail]
    done = await reopen_files(res, told, ready)
    step.recorded = [each for each in done if "kept_as" in each.detail]
    step.findings = [each for each in done if "kept_as" not in each.detail]


async def _set_aside(res: Resources, claim: StepClaim, finding: Finding, content: Content) -> Finding | None:
    """Take a damaged object of the right size away, which a put would trust; None if it is good after all."""
    try:
        if (kept_as := await keep_damaged(res, content)) is None:
            return None  # it was put anew meanwhile
        finding = replace(finding, detail={**finding.detail, "kept_as": kept_as})
        await ask(res, lambda conn: steps.record_finding(conn, claim, finding))
        await remove_damaged(res, content, kept_as)
    except Permanent:
        return finding  # it is gone by now, which is put right in the same way
    except Transient as exc:
        if not exc.code.startswith("storage_"):
            raise
        await require_storage(res)
        return replace(finding, detail={**finding.detail, "reason": exc.message})
    return finding


def _remembered(finding: Finding, known: Mapping[str, Mapping[str, Any]]) -> Finding:
    """Say of what is missing that it was damaged, if whoever took this step before removed it, and died."""
    if finding.kind != "object_missing" or finding.key not in known:
        return finding
    detail = {name: value for name, value in known[finding.key].items() if name != "reason"}
    return replace(finding, kind="object_damaged", detail=detail)
