"""`holdfast emails reparse`: parse stored bodies again with today's parser."""

import sys
from typing import TYPE_CHECKING

import click

from service.cli.environment import actor, env_file, with_resources
from service.cli.filters import ID, filters, selection
from service.cli.terminal import json_option, print_json, progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from service.operate.reparse import ReparsePlan
    from service.postgres.selection import Selection
    from service.resources import Resources

_MOST_FIELDS = 3  # named per example


@click.command()
@click.argument("email_ids", metavar="[ID]...", type=ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All finished e-mails that match the filters.")
@filters()
@click.option(
    "--per-second",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="E-mails to queue per second.",
)
@click.option("--dry-run", "asked", flag_value="nothing", help="Only show the changes.")
@click.option("--yes", "asked", flag_value="yes", help="Do not ask; needed without a terminal.")
@json_option
@env_file
def reparse(
    email_ids: tuple[int, ...],
    per_second: int,
    *,
    everything: bool,
    asked: str | None,
    as_json: bool,
    **chosen: str | bool | None,
) -> None:
    """Parse stored bodies again, and retry changed e-mails.

    Only finished e-mails count. The command first shows their number and the changes. Stored files are not downloaded
    again, and nothing is removed. After an interruption, the same command continues.
    """
    from service.postgres.selection import Selection

    if everything == bool(email_ids):
        raise click.UsageError("Give either IDs or --all.")
    wanted = selection(Selection, chosen)
    if not everything and wanted != Selection():
        raise click.UsageError("Filters need --all.")
    if not (asked or sys.stdin.isatty()):
        raise click.UsageError("No terminal: add --yes, or --dry-run.")
    read = _reader(wanted if everything else None, email_ids)
    plan = with_resources(lambda res: _plan(res, read))
    if not as_json:
        _print_plan(plan)
    queued = 0
    if plan.differing and asked != "nothing":
        if asked != "yes":
            click.confirm("Retry them?", abort=True, err=True)
        queued = with_resources(lambda res: _queue(res, read, per_second))
    if as_json:
        print_json({**_as_json(plan), "queued": queued})
    elif queued:
        click.echo(f"{queued:,} queued.")


def _reader(
    wanted: "Selection | None", email_ids: "Sequence[int]"
) -> "Callable[[Resources], AsyncIterator[Sequence[int]]]":
    from service.operate import reparse

    return lambda res: reparse.given(res, email_ids) if wanted is None else reparse.matching(res, wanted)


async def _plan(
    res: "Resources", read: "Callable[[Resources], AsyncIterator[Sequence[int]]]"
) -> "ReparsePlan":
    from service.operate import reparse

    plan = reparse.ReparsePlan()
    with progress("Parsing") as show_progress:
        async for _ in reparse.differences(res, read(res), plan):
            show_progress(plan.matching, f"{plan.differing:,} change")
    return plan


async def _queue(
    res: "Resources", read: "Callable[[Resources], AsyncIterator[Sequence[int]]]", per_second: int
) -> int:
    from service.operate import reparse

    queued, plan = 0, reparse.ReparsePlan()
    with progress("Queued") as show_progress:
        async for found in reparse.differences(res, read(res), plan):
            queued += await reparse.retry_differing(res, found, actor(), per_second)
            show_progress(queued, "")
    return queued


def _print_plan(plan: "ReparsePlan") -> None:
    change = f"{plan.differing:,} of {plan.matching:,} {'changes' if plan.differing == 1 else 'change'}"
    left = f"; {plan.unreadable:,} cannot be parsed and stay as they are" if plan.unreadable else ""
    click.echo(f"{change}{left}.", err=True)
    if plan.added or plan.corrected:
        click.echo(f"Files to add: {plan.added:,}; addresses to correct: {plan.corrected:,}.", err=True)
    if plan.fields:
        fields = ", ".join(f"{name} of {number:,}" for name, number in plan.fields.most_common())
        click.echo(f"Fields that change: {fields}.", err=True)
    for each in plan.examples:
        more = "" if len(each.fields) <= _MOST_FIELDS else ", …"
        fields = ", ".join(each.fields[:_MOST_FIELDS]) + more
        count = each.added + each.corrected
        files = f"{count} file{'' if count == 1 else 's'}" if count else ""
        click.echo(f"  e-mail {each.email_id}: {'; '.join(filter(None, (files, fields)))}", err=True)


def _as_json(plan: "ReparsePlan") -> dict[str, object]:
    from dataclasses import asdict

    return {**vars(plan), "fields": dict(plan.fields), "examples": [asdict(each) for each in plan.examples]}
