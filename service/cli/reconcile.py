"""`holdfast reconcile` and `storage verify`: compare Postgres with target and storage, and repair differences."""

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.cli.dismiss import dismiss_findings, undismiss_findings
from service.cli.environment import (
    actor,
    env_file,
    going_on,
    warn_without_worker,
    with_engine,
    with_resources,
)
from service.cli.filters import ID
from service.cli.terminal import (
    Column,
    json_option,
    print_facts,
    print_json,
    print_line,
    print_table,
    progress,
)
from service.cli.times import TIME, TIME_HELP, shown_time
from service.formatting import counted, printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.reconciliations import FindingView, ReconciliationDetail
    from service.reconcile.finding import Totals
    from service.resources import Resources

F = TypeVar("F", bound=Callable[..., Any])

POLL_SECONDS = 0.5
EXAMPLES = 3  # printed of each kind
COLUMNS = (
    Column("id", whole=True),
    Column("what", whole=True),
    Column("begun", whole=True),
    Column("status", whole=True),
    Column("open", whole=True),
    Column("by", least_width=120),
    Column("found"),
)
_REMARKS = {"foreign": "in the collection by others", "unclaimed": "in the storage without an e-mail"}


since_option: Callable[[F], F] = click.option(
    "--since",
    type=TIME,
    help=f"Only e-mails received at this time or later, {TIME_HELP}.",
)


@click.group(invoke_without_command=True)
@since_option
@click.option("--fix", is_flag=True, help="Repair differences: Postgres is right.")
@click.option("--force", is_flag=True, help="With --fix: repair even if most documents or objects are gone.")
@click.option("--wait", is_flag=True, help="With --fix: wait for the end of the repairs.")
@json_option
@env_file
@click.pass_context
def reconcile(  # noqa: PLR0913 each an option
    context: click.Context, since: datetime | None, *, fix: bool, force: bool, wait: bool, as_json: bool
) -> None:
    """Compare Postgres with the target and the storage.

    Exits with 0 if nothing differs or all is being repaired (with --wait: was repaired) or dismissed, 3 if something
    differs, 1 if the comparison failed. Other programs' documents, and objects that no e-mail needs, are listed and left alone.

    --fix syncs missing and different documents again, downloads missing and damaged objects again, and removes documents
    that are newer than Postgres or have no e-mail, after saving a copy of each.
    """
    if context.invoked_subcommand is not None:
        return
    if (wait or force) and not fix:
        raise click.UsageError("--wait and --force need --fix.")

    async def work(res: "Resources") -> tuple[int, bool]:
        from service.reconcile.run import RunOptions, reconcile

        with progress("Comparing", 100) as show_progress:
            options = RunOptions(actor(), since, "all" if fix else "nothing", force)
            run_id = await reconcile(res, options, lambda share, seen: show_progress(share, _seen(seen)))
        return run_id, await _wait_for_repairs(res, run_id) if wait else True

    run_id, is_repaired = with_resources(work)
    run = _print_run(run_id, as_json=as_json)
    sys.exit(_exit_code(run) if is_repaired else 3)


reconcile.add_command(dismiss_findings)
reconcile.add_command(undismiss_findings)


@reconcile.command("list")
@json_option
@env_file
def list_(*, as_json: bool) -> None:
    """List the newest reconciliations and verifications."""
    from service.queries.pages import PageFilter
    from service.queries.reconciliations import list_reconciliations

    page = with_engine(lambda engine: list_reconciliations(engine, PageFilter()))
    rows = (
        (
            run.id,
            run.kind if run.part is None else f"part {run.part + 1} of 24",
            shown_time(run.started_at),
            run.status,
            run.open,
            run.actor,
            run.error or ", ".join(f"{count} {kind}" for kind, count in run.counts.items()) or "nothing",
        )
        for run in page.reconciliations
    )
    print_json(page) if as_json else print_table(COLUMNS, rows)


@reconcile.command()
@click.argument("run_id", metavar="ID", type=ID)
@json_option
@env_file
def show(run_id: int, *, as_json: bool) -> None:
    """Show a run with examples of its findings.

    With --json, all findings are printed, one per line.
    """
    _print_run(run_id, as_json=as_json)


@reconcile.command()
@click.argument("run_id", metavar="ID", type=ID)
@json_option
@env_file
def cancel(run_id: int, *, as_json: bool) -> None:
    """Cancel a run; repairs that have begun go on."""
    from service.reconcile.run import cancel as cancel_run

    with_resources(lambda res: cancel_run(res, run_id, actor()))
    _print_run(run_id, as_json=as_json)


@click.command()
@click.option(
    "--rate",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Megabytes to read per second.",
)
@since_option
@click.option("--fix", is_flag=True, help="Download missing and damaged objects again.")
@click.option("--wait", is_flag=True, help="Wait for the end; Ctrl-C leaves the verification running.")
@json_option
@env_file
def verify(rate: int, since: datetime | None, *, fix: bool, wait: bool, as_json: bool) -> None:
    """Read all objects, and list those that have changed.

    Workers read the objects, slowly. A verification goes on after a restart. `holdfast reconcile show ID` shows its progress, `holdfast reconcile cancel ID`
    cancels it. With --wait, exits with 0 if no object has changed or all are being repaired, 3 if one has changed, 1 if
    the verification was cancelled or failed.
    """
    from service.reconcile.verify import begin

    run_id = with_resources(lambda res: begin(res, actor=actor(), rate=rate, since=since, fix=fix))
    with_engine(warn_without_worker)
    is_repaired = True
    if wait:
        _wait_for_verification(run_id)
        is_repaired = with_resources(lambda res: _wait_for_repairs(res, run_id))
    run = _print_run(run_id, as_json=as_json)
    sys.exit((_exit_code(run) if is_repaired else 3) if wait else 0)


def _seen(seen: "Totals") -> str:
    return f"{seen.emails:,} e-mails, {seen.objects:,} objects, {sum(seen.counts.values()):,} findings"


async def _wait_for_repairs(res: "Resources", run_id: int) -> bool:
    """Wait until every e-mail under repair is finished; print those that failed, and return whether there are none."""
    import asyncio

    from service.reconcile.repair import count_running, list_failed

    begun = await count_running(res, run_id)
    with progress("Waiting", begun) as show_progress:
        while left := await count_running(res, run_id):
            show_progress(begun - left, "")
            await asyncio.sleep(POLL_SECONDS)
    failed = await list_failed(res, run_id)
    for email_id, reason in failed:
        click.echo(printable(f"e-mail {email_id} could not be repaired: {reason}"), err=True)
    return not failed


def _wait_for_verification(run_id: int) -> None:
    with going_on(f"The verification goes on; `holdfast reconcile cancel {run_id}` cancels it."):
        with_engine(lambda engine: _watch(engine, run_id))


async def _watch(engine: "AsyncEngine", run_id: int) -> None:
    import asyncio

    from service.errors import Transient
    from service.queries.reconciliations import get_reconciliation

    with progress("Verifying", 100) as show_progress:
        while True:
            try:
                run = await get_reconciliation(engine, run_id)
            except Transient as exc:
                show_progress(0, exc.message)
            else:
                show_progress(_percent(run), f"{run.objects:,} objects, {run.bytes:,} bytes")
                if run.status != "running":
                    return
            await asyncio.sleep(POLL_SECONDS)


def _percent(run: "ReconciliationDetail") -> int:
    """Return the progress in percent: a verification goes by hash, and hashes are spread evenly."""
    place = run.place or ""
    return 0 if ":" in place else int(f"{place:0<8}"[:8], 16) * 100 // 2**32


def _exit_code(run: "ReconciliationDetail") -> int:
    """Return 0 if nothing differs or all is being repaired, 3 if something differs, 1 if the run did not end."""
    if run.status != "done":
        return 1
    return 3 if run.undismissed else 0


def _print_run(run_id: int, *, as_json: bool) -> "ReconciliationDetail":
    """Print a run with examples of its findings, or as JSON with all of them; return it with examples."""
    from service.postgres.engine import connect
    from service.queries.comparison import count_not_captured, not_captured
    from service.queries.reconciliations import get_with_examples

    async def work(engine: "AsyncEngine") -> "ReconciliationDetail":
        run = await get_with_examples(engine, run_id, EXAMPLES)
        if as_json:
            await _print_json(engine, run)
        else:
            _print_text(run)
            async with connect(engine) as conn:
                print_facts([("not captured", said) for said in not_captured(await count_not_captured(conn))])
        return run

    return with_engine(work)


async def _print_json(engine: "AsyncEngine", run: "ReconciliationDetail") -> None:
    """Print a run as the API does, but with all findings, one per line: they may not fit into memory."""
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


def _print_text(run: "ReconciliationDetail") -> None:
    """Print the verdict, then the findings with examples, then the scope."""
    from service.reconcile.differences import KIND_LABELS

    words = {**KIND_LABELS, **_REMARKS}
    print_line(*_verdict(run))
    for kind, count in run.counts.items():
        repairs = run.repaired.get(kind, 0)
        about = "left alone" if kind in _REMARKS else f"{repairs:,} repairs begun" if repairs else ""
        print_line(f"{count:>9,}", words[kind], f"({about})" if about else "")
        for finding in [each for each in run.findings if each.kind == kind]:
            print_line(" " * 9, _example(finding))
    print_facts(_facts(run))


def _verdict(run: "ReconciliationDetail") -> tuple[str, ...]:
    if run.status == "running":
        return ("This run is", "running", f"since {shown_time(run.started_at)}.")
    if run.status != "done":
        return ("This run is", run.status, f"and does not cover the rest: {run.error or 'it was cancelled'}")
    dismissed = f"{run.dismissed:,} dismissed." if run.dismissed else ""
    if run.undismissed:
        return (f"{counted(run.undismissed, 'difference')} found.", dismissed)
    if run.repaired:
        return (_repairs(run),)
    return ("No other differences found:", dismissed) if dismissed else ("No differences found.",)


def _repairs(run: "ReconciliationDetail") -> str:
    """Describe the present state of the repairs."""
    if not (run.repairing or run.unrepaired):
        return "All differences are repaired." if run.is_kept else "A repair of every difference has begun."
    failed = f"; {run.unrepaired:,} could not be repaired" if run.unrepaired else ""
    return f"{run.repairing:,} {'repair' if run.repairing == 1 else 'repairs'} in progress{failed}."


def _example(finding: "FindingView") -> str:
    email = f"e-mail {finding.email_id}, " if finding.email_id else ""
    fields = ", ".join(finding.detail.get("fields", ()))
    dismissed = f"dismissed: {finding.dismissal.reason}" if finding.dismissal else None
    details = "; ".join(filter(None, (fields, finding.detail.get("reason"), finding.repair, dismissed)))
    number = "" if finding.kind in _REMARKS else f" (finding {finding.id})"
    return f"{email}{finding.key[:90]}{f': {details}' if details else ''}{number}"


def _facts(run: "ReconciliationDetail") -> list[tuple[str, str | None]]:
    part = "" if run.part is None else f", part {run.part + 1} of 24 of the storage"
    facts: list[tuple[str, str | None]] = [
        ("run", f"{run.id} ({run.kind}), by {run.actor}"),
        ("compared", " and ".join(run.compared)),
        ("checked", f"{run.emails:,} e-mails, {run.documents:,} documents, {run.objects:,} objects{part}"),
    ]
    if run.since:
        facts.append(("since", shown_time(run.since)))
    if run.kind == "verify":
        return [*facts, ("read", f"{run.bytes:,} bytes, at most {run.megabytes_per_second} MB a second")]
    facts.append(("target", _target(run)))
    if run.targets:
        late = f", {run.overdue:,} for more than an hour" if run.overdue else ""
        facts.append(("not synced yet", f"{run.unfinished:,}{late}; {run.not_synced:,} failed"))
    return facts


def _target(run: "ReconciliationDetail") -> str:
    if not run.targets:
        return "none: SYNC_URL is not set"
    if run.not_sent is not None:
        return f"{run.targets}; a webhook's receiver cannot be compared, {run.not_sent:,} not sent yet"
    return run.targets
