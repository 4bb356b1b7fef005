"""Refetch lost contents that a verification found; copy each damaged object, and record that, before its removal."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from service.errors import Permanent, Transient
from service.jobs.object_references import write_references
from service.reconcile import steps
from service.reconcile.contents import Content
from service.reconcile.finding import Finding
from service.reconcile.objects import require_storage
from service.reconcile.repair import keep_damaged, remove_damaged, reopen_files
from service.reconcile.steps import StepClaim, StepResult
from service.resources import Resources


async def refetch(res: Resources, claim: StepClaim, step: StepResult, lost: list[Content]) -> None:
    """Begin the refetch of lost contents, and add the repairs to the step's findings.

    A damaged object that cannot be set aside stays, and its finding gets the reason. Raises LeaseLost.
    """
    contents = {each.key: each for each in lost}
    recorded = await res.insist(lambda conn: steps.recorded_details(conn, claim, [*contents]))
    found: list[Finding] = []
    for finding in {each.key: each for each in step.findings}.values():
        content = contents.get(finding.key)
        if content is None or finding.detail.get("size") != content.size:
            found.append(_with_recorded_detail(finding, recorded))
        elif kept := await _set_aside(res, claim, finding, content):
            found.append(kept)
    ready = [contents[each.key] for each in found if each.key in contents and "reason" not in each.detail]
    done = await reopen_files(res, found, ready)
    step.recorded = [each for each in done if "kept_as" in each.detail]
    step.findings = [each for each in done if "kept_as" not in each.detail]


async def _set_aside(res: Resources, claim: StepClaim, finding: Finding, content: Content) -> Finding | None:
    """Move a damaged object of the right size aside: a put would keep or replace it; None if it is intact after all."""
    try:
        if (kept := await keep_damaged(res, content)) is None:
            return None  # it was stored again meanwhile
        finding = replace(finding, detail={**finding.detail, "kept_as": kept.key})
        record = partial(steps.record_copy, claim=claim, finding=finding, kept=kept)
        await write_references(res.storage, lambda proofs: res.insist(partial(record, proofs=proofs)))
        await remove_damaged(res, content, kept.key)
    except Permanent as exc:
        if exc.code == "object_locked":
            return replace(finding, detail={**finding.detail, "reason": exc.message})
        return finding  # the object is gone by now, and has the same repair
    except Transient as exc:
        if not exc.code.startswith("storage_"):
            raise
        await require_storage(res)
        return replace(finding, detail={**finding.detail, "reason": exc.message})
    return finding


def _with_recorded_detail(finding: Finding, recorded: Mapping[str, Mapping[str, Any]]) -> Finding:
    """Turn `missing` back into `damaged` if a worker that died in this step had removed the damaged object."""
    if finding.kind != "object_missing" or finding.key not in recorded:
        return finding
    detail = {name: value for name, value in recorded[finding.key].items() if name != "reason"}
    return replace(finding, kind="object_damaged", detail=detail)
