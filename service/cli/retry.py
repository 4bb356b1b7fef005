"""`holdfast emails retry`: run e-mails again, some by their ids, or all that match."""

import sys
from typing import TYPE_CHECKING

import click

from service.cli.bulk import Way, bulk_options, retry_all
from service.cli.environment import actor, env_file, with_resources
from service.cli.filters import filters, selection
from service.cli.terminal import print_json
from service.formatting import printable

if TYPE_CHECKING:
    from service.resources import Resources


@click.command()
@click.argument("email_ids", metavar="[ID]...", type=click.IntRange(0, 2**63 - 1), nargs=-1)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="All that match the filters; those that failed, unless --status says completed.",
)
@filters()
@bulk_options
@env_file
def retry(email_ids: tuple[int, ...], way: Way, *, everything: bool, **chosen: str | None) -> None:
    """Run finished e-mails again; files that are stored are not fetched again."""
    from service.postgres.selection import Selection

    if everything == bool(email_ids):
        raise click.UsageError("Give either IDs or --all.")
    wanted = selection(Selection, chosen)
    if everything:
        retry_all(wanted, way)
    elif wanted != Selection() or way.dry_run or way.wait:
        raise click.UsageError("Filters, --dry-run and --wait go with --all.")
    elif not with_resources(lambda res: _retry(res, email_ids, as_json=way.as_json)):
        sys.exit(1)


async def _retry(res: "Resources", email_ids: tuple[int, ...], *, as_json: bool) -> bool:
    from service.errors import Rejected
    from service.operate.retry import retry

    good = True
    for email_id in email_ids:
        try:
            await retry(res, email_id, actor())
        except Rejected as exc:
            good = False
            click.echo(printable(exc.message), err=True)
        else:
            if as_json:
                print_json({"status": "queued", "email_id": email_id}, indent=None)
            else:
                click.echo(f"{email_id} queued")
    return good
