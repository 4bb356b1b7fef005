"""What the commands say of a run that compares or verifies."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.cli.environment import with_engine
from service.cli.terminal import print_facts, print_line, shown_time

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.reconciliations import FindingView, ReconciliationDetail

F = TypeVar("F", bound=Callable[..., Any])

# Of each kind so many are shown.
EXAMPLES = 3
_REMARKS = {"foreign": "in the collection by others", "unclaimed": "in the storage without an e-mail"}


def _time(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    from pydantic import ValidationError

    from service.postgres.selection import Selection

    if value is None:
        return None
    try:
        return Selection.model_validate({"received_after": value}).received_after
    except ValidationError as exc:
        raise click.BadParameter(exc.errors(include_url=False)[0]["msg"]) from None


time_option: Callable[[F], F] = click.option(
    "--since",
    metavar="TIME",
    callback=_time,
    help="Only what was received at this time or later, as 2026-01-31T18:00; UTC.",
)


def outcome(run: "ReconciliationDetail") -> int:
    """Choose the exit code: 0 where all is well or is being put right, 3 where something differs, else 1."""
    if run.status != "done":
        return 1
    return 3 if run.open else 0


def print_run(run_id: int, *, as_json: bool) -> "ReconciliationDetail":
    """Print a run with some findings of each kind, as JSON with all of them; return it with some."""
    from service.postgres.engine import connect
    from service.queries.comparison import count_not_captured, not_captured
    from service.queries.reconciliations import get_with_examples

    async def work(engine: "AsyncEngine") -> "ReconciliationDetail":
        run = await get_with_examples(engine, run_id, EXAMPLES)
        if as_json:
            await _print_all(engine, run)
        else:
            _print(run)
            async with connect(engine) as conn:
                print_facts([("not captured", said) for said in not_captured(await count_not_captured(conn))])
        return run

    return with_engine(work)


async def _print_all(engine: "AsyncEngine", run: "ReconciliationDetail") -> None:
    """Print it as the API has it, but with all findings, one in a line: of copies there may be more than fit into memory."""
    from service.queries.pages import PageFilter
    from service.queries.reconciliations import get_reconciliation

    head = json.dumps(run.model_dump(mode="json", exclude={"findings"}), indent=2)
    click.echo(head.removesuffix("\n}") + ',\n  "findings": [', nl=False)
    comma, page = "", await get_reconciliation(engine, run.id, is_brief=False)
    while True:
        for finding in page.findings:
            click.echo(f"{comma}\n    {json.dumps(finding.model_dump(mode='json'))}", nl=False)
            comma = ","
        if page.next_cursor is None:
            break
        page = await get_reconciliation(engine, run.id, PageFilter(cursor=page.next_cursor), is_brief=False)
    click.echo("\n  ]\n}" if comma else "]\n}")


def _print(run: "ReconciliationDetail") -> None:
    """Print the verdict first, then what was found with examples, then what was looked at."""
    from service.reconcile.differences import KIND_LABELS

    words = {**KIND_LABELS, **_REMARKS}
    print_line(*_verdict(run))
    for kind, count in run.counts.items():
        done = run.repaired.get(kind, 0)
        about = "left alone" if kind in _REMARKS else f"{done:,} repairs begun" if done else ""
        print_line(f"{count:>9,}", words[kind], f"({about})" if about else "")
        for finding in [each for each in run.findings if each.kind == kind]:
            print_line(" " * 9, _example(finding))
    print_facts(_facts(run))


def _verdict(run: "ReconciliationDetail") -> tuple[str, ...]:
    if run.status == "running":
        return ("It is", "running", f"since {shown_time(run.started_at)}.")
    if run.status != "done":
        return ("It is", run.status, f"and tells nothing of the rest; {run.error or 'it was ended'}")
    if run.open:
        return (f"{run.open:,} {'differs' if run.open == 1 else 'differ'} from what is on record.",)
    if run.repaired:
        return (_repaired(run),)
    return ("All that was looked at is as it is on record.",)


def _repaired(run: "ReconciliationDetail") -> str:
    """Say what became of the repairs by now."""
    if not (run.repairing or run.unrepaired):
        return (
            "All that differed was put right." if run.is_kept else "A repair was begun for all that differed."
        )
    failed = f"; {run.unrepaired:,} could not be put right" if run.unrepaired else ""
    return (
        f"{run.repairing:,} of what differed {'is' if run.repairing == 1 else 'are'} being put right{failed}."
    )


def _example(finding: "FindingView") -> str:
    email = f"e-mail {finding.email_id}, " if finding.email_id else ""
    fields = ", ".join(finding.detail.get("fields", ()))
    said = "; ".join(filter(None, (fields, finding.detail.get("reason"), finding.repair)))
    return f"{email}{finding.key[:90]}{f': {said}' if said else ''}"


def _facts(run: "ReconciliationDetail") -> list[tuple[str, str | None]]:
    part = "" if run.part is None else f", part {run.part + 1} of 24 of the storage"
    looked_at = f"{run.emails:,} e-mails, {run.documents:,} documents, {run.objects:,} objects{part}"
    facts = [("run", f"{run.id} ({run.kind}), by {run.actor}"), ("compared", " and ".join(run.compared))]
    facts.append(("looked at", looked_at))
    if run.since:
        facts.append(("since", shown_time(run.since)))
    if run.kind == "verify":
        return [*facts, ("read", f"{run.bytes:,} bytes, at most {run.megabytes_per_second} MB a second")]
    facts.append(("target", _target(run)))
    if run.targets:
        late = f", {run.overdue:,} for more than an hour" if run.overdue else ""
        facts.append(("on their way", f"{run.unfinished:,}{late}; {run.not_synced:,} failed, as is known"))
    return [*facts]


def _target(run: "ReconciliationDetail") -> str:
    if not run.targets:
        return "none: SYNC_URL is not set"
    if run.not_sent is not None:
        return f"{run.targets}; a webhook's receiver cannot be compared, {run.not_sent:,} not sent yet"
    return run.targets
