"""`holdfast merge`: make one e-mail of all rows of a comment."""

from typing import TYPE_CHECKING

import click

from service.cli.environment import env_file, with_engine
from service.cli.terminal import json_option, print_json, print_line, progress

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.operate.merge import MergeProgress

# A batch of a dry run may read a ticket with very many e-mails.
BATCH_SECONDS = 60.0


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would become of which e-mails.")
@json_option
@env_file
def merge(*, dry_run: bool, as_json: bool) -> None:
    """Make one e-mail of all rows of a comment.

    Earlier versions kept a row for each webhook. Workers merge these in the background; this command does it at once.
    The oldest row stays, and gets the requests, files and attempts of the others. It may be stopped and repeated at any
    time, beside everything else.
    """
    done = with_engine(lambda engine: _merge(engine, dry_run=dry_run), seconds=BATCH_SECONDS)
    if as_json:
        examples = [{"email_id": pair.gone, "merged_into": pair.into} for pair in done.examples]
        counts = {name: getattr(done, name) for name in ("examined", "identified", "merged", "left")}
        print_json({"dry_run": dry_run, **counts, "examples": examples})
        return
    _print(done, dry_run=dry_run)


async def _merge(engine: "AsyncEngine", *, dry_run: bool) -> "MergeProgress":
    from service.operate.merge import MergeProgress, merge_all

    done = MergeProgress()
    with progress("Examined") as show_progress:
        async for done in merge_all(engine, BATCH_SECONDS, dry_run=dry_run):
            show_progress(done.examined, f"{done.merged:,} merged")
    return done


def _print(done: "MergeProgress", *, dry_run: bool) -> None:
    if not done.examined:
        click.echo("Nothing to merge: each comment is one e-mail.")
        return
    verb = "would become" if dry_run else "became"
    before = done.identified + done.merged
    become = f"{done.merged:,} {verb} part of an older e-mail of the same comment"
    click.echo(f"Of {before:,} e-mail{'' if before == 1 else 's'}, {become}, and {done.identified:,} stay.")
    for pair in done.examples:
        print_line(f"  e-mail {pair.gone} {verb} part of", f"e-mail {pair.into}")
    if done.merged > len(done.examples):
        click.echo(f"  and {done.merged - len(done.examples):,} more")
    if done.left:
        click.echo(f"{done.left:,} left for later: an attempt runs, or another process has them.", err=True)
