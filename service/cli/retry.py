"""`holdfast emails retry`, `emails sync` and `retries`: run jobs or syncs again, by id or in bulk; follow bulk retries."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from itertools import count
from typing import TYPE_CHECKING, Any

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.environment import say_without_worker
from service.cli.filters import ID, filters, selection
from service.cli.terminal import (
    Column,
    json_option,
    print_facts,
    print_json,
    print_line,
    print_table,
    progress,
)
from service.cli.times import shown_time
from service.formatting import duration, number, printable

if TYPE_CHECKING:
    from service.cli.backends.port import Backend
    from service.postgres.selection import BulkTask, Selection, What
    from service.queries.retries import BulkRetryView

POLL_SECONDS = 0.5
POLLS_PER_CHECK = 10  # polls for each look whether a worker is alive
# Waiting for a bulk retry outlives an outage of Postgres of this length.
OUTAGE_SECONDS = 300.0
COLUMNS = (
    Column("id", whole=True),
    Column("begun", whole=True),
    Column("status", whole=True),
    Column("queued", whole=True),
    Column("of", whole=True),
    Column("outcome", least_width=100),
    Column("by", least_width=120),
    Column("what", whole=True),
    Column("filter"),
)
_NAMES = {"job": "Bulk retry", "sync": "Bulk retry of syncs"}
_QUESTIONS = {"job": "Retry them?", "sync": "Sync them again?"}
_VERBS = {"retry": "queued", "dismiss": "dismissed", "undismiss": "undismissed", "replay": "replayed"}
_BULK = {"dismiss": "Bulk dismissal", "undismiss": "Bulk undismissal", "replay": "Bulk replay"}
_ENDS = {"job": "repaired", "sync": "synced"}
_RECEIPTS: dict[str, tuple[str, dict[str, object]]] = {
    "job": ("queued", {"status": "queued"}),
    "sync": ("to be synced", {"sync_status": "pending"}),
}

_BULK_OPTIONS = (
    click.option(
        "--per-second",
        type=click.IntRange(1, 1000),
        default=20,
        show_default=True,
        help="E-mails to queue or dismiss per second.",
    ),
    click.option("--dry-run", is_flag=True, help="Only count the matching e-mails."),
    click.option("--yes", is_flag=True, help="Do not ask; needed without a terminal."),
    click.option("--wait", is_flag=True, help="Wait for the end; Ctrl-C leaves the bulk retry running."),
    json_option,
)


@dataclass(frozen=True)
class BulkOptions:
    """The options of a bulk retry."""

    per_second: int
    dry_run: bool
    yes: bool
    wait: bool
    as_json: bool


def bulk_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `BulkOptions` to a command; the command gets them as `options`."""

    @wraps(command)
    def run(**typed: Any) -> None:  # noqa: ANN401 the command's other options have any type
        options = BulkOptions(**{field.name: typed.pop(field.name) for field in fields(BulkOptions)})
        command(options=options, **typed)

    for option in reversed(_BULK_OPTIONS):
        run = option(run)
    return run


@click.command()
@click.argument("email_ids", metavar="[ID]...", type=ID, nargs=-1)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="All failed e-mails that match the filters; completed ones with --status completed.",
)
@filters()
@bulk_options
@anywhere
def retry(
    email_ids: tuple[int, ...], options: BulkOptions, *, everything: bool, **chosen: str | bool | None
) -> None:
    """Process finished e-mails again.

    Stored files are not downloaded again.
    """
    _retry("job", email_ids, options, chosen, everything=everything)


@click.command()
@click.argument("email_ids", metavar="[ID]...", type=ID, nargs=-1)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="All finished e-mails that match the filters: those whose sync failed, and those older than the target,"
    " unless --sync-status is given.",
)
@filters()
@bulk_options
@anywhere
def sync(
    email_ids: tuple[int, ...], options: BulkOptions, *, everything: bool, **chosen: str | bool | None
) -> None:
    """Sync finished e-mails to the targets again.

    Nothing is downloaded again.
    """
    _retry("sync", email_ids, options, chosen, everything=everything)


def wanted_emails(
    email_ids: tuple[int, ...],
    options: BulkOptions,
    chosen: dict[str, str | bool | None],
    *,
    everything: bool,
) -> "Selection":
    """Return the filter for --all; a usage error where a filter goes with ids, or both or none are given."""
    from service.postgres.selection import Selection

    if everything == bool(email_ids):
        raise click.UsageError("Give either IDs or --all.")
    wanted = selection(Selection, chosen)
    if not everything and (wanted != Selection() or options.dry_run or options.wait):
        raise click.UsageError("Filters, --dry-run and --wait need --all.")
    return wanted


def start_bulk_retry(wanted: "Selection", options: BulkOptions, task: "BulkTask | None" = None) -> None:
    """Count, ask, start; with --wait, wait and end the process with the exit code of `_exit`."""
    from service.postgres.selection import RETRY

    task = task or RETRY
    if not (options.dry_run or options.yes or sys.stdin.isatty()):
        raise click.UsageError("No terminal: add --yes, or --dry-run.")
    matching = with_backend(lambda backend: backend.plan(wanted, task))
    if options.as_json and options.dry_run:
        print_json({"matching": matching.number, "capped": matching.is_capped})
    else:
        _print_count(matching.number, options.per_second, is_capped=matching.is_capped)
    # A capped count covers only the newest e-mails; older ones may match.
    if options.dry_run or not (matching.number or matching.is_capped):
        return
    if not options.yes:
        question = _QUESTIONS[task.what] if task.action == "retry" else f"{task.action.capitalize()} them?"
        click.confirm(question, abort=True, err=True)
    retry_id = with_backend(lambda backend: backend.start(wanted, options.per_second, task))
    if options.wait:
        _wait(retry_id)
    found = _print(retry_id, as_json=options.as_json)
    if options.wait:
        _exit(found)


@click.group()
def retries() -> None:
    """List, follow and cancel bulk retries and dismissals."""


@retries.command("list")
@json_option
@anywhere
def list_(*, as_json: bool) -> None:
    """List the newest bulk retries."""
    page = with_backend(lambda backend: backend.bulk_retries())
    rows = (
        (
            each.id,
            shown_time(each.created_at),
            each.status,
            each.retried,
            f"{each.planned}{'+' if each.planned_capped else ''}",
            _outcomes(each),
            each.actor,
            each.what if each.action == "retry" else each.action,
            each.filter.model_dump_json(exclude_none=True),
        )
        for each in page.retries
    )
    print_json(page) if as_json else print_table(COLUMNS, rows)


@retries.command()
@click.argument("retry_id", metavar="ID", type=ID)
@json_option
@anywhere
def show(retry_id: int, *, as_json: bool) -> None:
    """Show the progress and outcomes of a bulk retry."""
    found = _print(retry_id, as_json=as_json)
    if as_json:
        return
    print_facts(
        [
            ("begun", shown_time(found.created_at)),
            ("by", found.actor),
            ("what", found.what if found.action == "retry" else found.action),
            ("reason", found.reason),
            ("filter", found.filter.model_dump_json(exclude_none=True)),
            ("at most", f"{found.per_second} a second"),
            ("searched to", shown_time(found.reached) if found.reached else None),
            ("all queued", shown_time(found.finished_at) if found.finished_at else None),
            ("all ended", shown_time(found.settled_at) if found.settled_at else None),
        ]
    )


@retries.command()
@click.argument("retry_id", metavar="ID", type=ID)
@json_option
@anywhere
def wait(retry_id: int, *, as_json: bool) -> None:
    """Wait for the end of a bulk retry; Ctrl-C leaves it running.

    Exits with 0 if all e-mails are repaired (or synced), 3 if some failed again, and 1 if the outcome is not known: the
    bulk retry was cancelled, another one took over some e-mails, or Holdfast is away.
    """
    _wait(retry_id)
    _exit(_print(retry_id, as_json=as_json))


@retries.command()
@click.argument("retry_id", metavar="ID", type=ID)
@json_option
@anywhere
def cancel(retry_id: int, *, as_json: bool) -> None:
    """Queue no further e-mails; those already queued are processed."""
    with_backend(lambda backend: backend.cancel(retry_id))
    _print(retry_id, as_json=as_json)


def _retry(
    what: "What",
    email_ids: tuple[int, ...],
    options: BulkOptions,
    chosen: dict[str, str | bool | None],
    *,
    everything: bool,
) -> None:
    from service.postgres.selection import BulkTask

    wanted = wanted_emails(email_ids, options, chosen, everything=everything)
    if everything:
        start_bulk_retry(wanted, options, BulkTask(what=what))
    elif not with_backend(lambda backend: _retry_each(backend, email_ids, what, as_json=options.as_json)):
        sys.exit(1)


async def _retry_each(backend: "Backend", email_ids: tuple[int, ...], what: "What", *, as_json: bool) -> bool:
    """Retry e-mails one by one; return whether all could be."""
    from service.errors import Rejected

    is_good = True
    text, receipt = _RECEIPTS[what]
    for given_id in email_ids:
        try:
            email_id = await backend.retry(given_id, what)
        except Rejected as exc:
            is_good = False
            click.echo(printable(exc.message), err=True)
        else:
            if as_json:
                print_json({**receipt, "email_id": email_id}, indent=None)
            else:
                click.echo(f"{email_id} {text}")
    return is_good


def _print_count(matching: int, per_second: int, *, is_capped: bool) -> None:
    count = f"{matching:,}{' or more' if is_capped else ''}"
    match = "matches" if matching == 1 else "match"
    takes = (
        f"; at {per_second} a second that takes {duration(max(1, matching / per_second))}" if matching else ""
    )
    click.echo(f"{count} {match}{takes}.", err=True)


def _print(retry_id: int, *, as_json: bool) -> "BulkRetryView":
    """Print the progress of a bulk retry; return it."""
    found = with_backend(lambda backend: backend.bulk_retry(retry_id))
    if as_json:
        print_json(found)
        return found
    of = f"{found.retried:,} of {number(found.planned, found.planned_capped)} {_VERBS[found.action]}"
    name = _NAMES[found.what] if found.action == "retry" else _BULK[found.action]
    print_line(f"{name} {found.id}", "is", f"{found.status}", f"with {of}")
    if found.action == "retry" or found.failed_again:
        click.echo(f"{_outcomes(found)}.")
    if found.status == "running":
        click.echo(
            f"`holdfast retries wait {found.id}` waits for the end, `holdfast retries cancel {found.id}` cancels it."
        )
    return found


def _outcomes(found: "BulkRetryView") -> str:
    if found.action != "retry":
        refused = f", {found.failed_again:,} refused" if found.failed_again else ""
        return f"{_VERBS[found.action]}{refused}"
    counts = [
        (found.repaired, _ENDS[found.what]),
        (found.failed_again, "failed again"),
        (found.still_running, "still running"),
    ]
    if found.superseded:
        counts.append((found.superseded, "retried again by another"))
    return ", ".join(f"{count:,} {name}" for count, name in counts)


def _exit(found: "BulkRetryView") -> None:
    """End the process: 0 if all are repaired, 3 if some failed again, 1 if an outcome is not known."""
    if found.status == "cancelled":
        sys.exit(1)
    if found.failed_again:
        sys.exit(3)
    sys.exit(1 if found.superseded or not found.settled_at else 0)


def _wait(retry_id: int) -> None:
    """Wait until no e-mail of a bulk retry is queued or running; Ctrl-C ends only the waiting."""
    try:
        with_backend(lambda backend: _watch(backend, retry_id))
    except KeyboardInterrupt:
        click.echo(f"`holdfast retries wait {retry_id}` waits again.", err=True)
        click.echo(f"The bulk retry goes on; `holdfast retries cancel {retry_id}` cancels it.", err=True)
        sys.exit(130)


async def _watch(backend: "Backend", retry_id: int) -> None:
    """Return when all e-mails have ended; raises Transient if Holdfast is away for `OUTAGE_SECONDS`."""
    import asyncio
    import time

    from service.errors import Transient

    answered_at, is_warned, begun = time.monotonic(), False, await backend.bulk_retry(retry_id)
    with progress("Ended", begun.planned) as show_progress:
        for number_of_poll in count():
            try:
                found = await backend.bulk_retry(retry_id)
                if found.settled_at:
                    return
                if not is_warned and number_of_poll % POLLS_PER_CHECK == 0:
                    is_warned = say_without_worker(is_alive=await backend.has_worker())
            except Transient as exc:
                if time.monotonic() - answered_at > OUTAGE_SECONDS:
                    raise
                show_progress(0, exc.message)
            else:
                answered_at = time.monotonic()
                show_progress(
                    found.retried - found.still_running,
                    f"{found.retried:,} {_VERBS[found.action]}: {_outcomes(found)}",
                )
            await asyncio.sleep(POLL_SECONDS)
