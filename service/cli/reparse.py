"""`holdfast emails reparse`: read bodies again after the parser learned something."""

import sys
from typing import TYPE_CHECKING

import click

from service.cli.environment import actor, env_file, with_resources
from service.cli.filters import filters, selection
from service.cli.terminal import json_option, print_json, progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from service.operate.reparse import ReparsePlan
    from service.postgres.selection import Selection
    from service.resources import Resources

_FEW = 3  # fields that are named with an example


@click.command()
@click.argument("email_ids", metavar="[ID]...", type=click.IntRange(0, 2**63 - 1), nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All finished e-mails that match the filters.")
@filters()
@click.option(
    "--per-second", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many to queue."
)
@click.option("--dry-run", "asked", flag_value="nothing", help="Only say what would change.")
@click.option("--yes", "asked", flag_value="yes", help="Do not ask; needed where there is no terminal.")
@json_option
@env_file
def reparse(
    email_ids: tuple[int, ...],
    per_second: int,
    *,
    everything: bool,
    asked: str | None,
    as_json: bool,
    **chosen: str | None,
) -> None:
    """Read the bodies of finished e-mails again, and run those again that read differently now.

    It says first how many they are, and what changes. Stored files are not fetched again, and nothing is removed.
    After an interruption, the same command goes on with what is left.
    """
    from service.postgres.selection import Selection

    if everything == bool(email_ids):
        raise click.UsageError("Give either IDs or --all.")
    wanted = selection(Selection, chosen)
    if not everything and wanted != Selection():
        raise click.UsageError("Filters go with --all.")
    if not (asked or sys.stdin.isatty()):
        raise click.UsageError("Nobody can be asked here: add --yes, or --dry-run.")
    look = _look(wanted if everything else None, email_ids)
    plan = with_resources(lambda res: _plan(res, look))
    if not as_json:
        _tell(plan)
    queued = 0
    if plan.differing and asked != "nothing":
        if asked != "yes":
            click.confirm("Run them again?", abort=True, err=True)
        queued = with_resources(lambda res: _queue(res, look, per_second))
    if as_json:
        print_json({**_written(plan), "queued": queued})
    elif queued:
        click.echo(f"{queued:,} queued.")


def _look(
    wanted: "Selection | None", email_ids: "Sequence[int]"
) -> "Callable[[Resources], AsyncIterator[Sequence[int]]]":
    from service.operate import reparse

    return lambda res: reparse.given(res, email_ids) if wanted is None else reparse.matching(res, wanted)


async def _plan(
    res: "Resources", look: "Callable[[Resources], AsyncIterator[Sequence[int]]]"
) -> "ReparsePlan":
    from service.operate import reparse

    plan = reparse.ReparsePlan()
    with progress("Reading again") as tell:
        async for _ in reparse.differences(res, look(res), plan):
            tell(plan.matching, f"{plan.differing:,} read differently")
    return plan


async def _queue(
    res: "Resources", look: "Callable[[Resources], AsyncIterator[Sequence[int]]]", per_second: int
) -> int:
    from service.operate import reparse

    queued, plan = 0, reparse.ReparsePlan()
    with progress("Queued") as tell:
        async for found in reparse.differences(res, look(res), plan):
            queued += await reparse.retry_differing(res, found, actor(), per_second)
            tell(queued, "")
    return queued


def _tell(plan: "ReparsePlan") -> None:
    of = f"{plan.differing:,} of {plan.matching:,} {'reads' if plan.differing == 1 else 'read'} differently now"
    left = f"; {plan.unreadable:,} cannot be read and stay as they are" if plan.unreadable else ""
    click.echo(f"{of}{left}.", err=True)
    if plan.added or plan.corrected:
        click.echo(f"Files to add: {plan.added:,}; addresses to correct: {plan.corrected:,}.", err=True)
    if plan.fields:
        fields = ", ".join(f"{name} of {number:,}" for name, number in plan.fields.most_common())
        click.echo(f"Fields that change: {fields}.", err=True)
    for each in plan.examples:
        more = "" if len(each.fields) <= _FEW else ", …"
        said = ", ".join(each.fields[:_FEW]) + more
        count = each.added + each.corrected
        files = f"{count} file{'' if count == 1 else 's'}" if count else ""
        click.echo(f"  e-mail {each.email_id}: {'; '.join(filter(None, (files, said)))}", err=True)


def _written(plan: "ReparsePlan") -> dict[str, object]:
    from dataclasses import asdict

    return {**vars(plan), "fields": dict(plan.fields), "examples": [asdict(each) for each in plan.examples]}
