"""`holdfast failures`: what went wrong, in groups, and a whole group run again."""

import click

from service.cli.bulk import Way, bulk_options, retry_all
from service.cli.environment import env_file, with_engine
from service.cli.filters import filters, selection
from service.cli.terminal import Column, json_option, print_json, print_table, shown_time

COLUMNS = (
    Column("count", whole=True),
    Column("code"),
    Column("host"),
    Column("first", whole=True, least_width=120),
    Column("last", whole=True),
    Column("e-mail", whole=True),
    Column("its reason", least_width=100),
)


@click.group(invoke_without_command=True)
@json_option
@env_file
@click.pass_context
def failures(context: click.Context, *, as_json: bool) -> None:
    """Show what failed, in groups of one code and one host; `retry` runs a group again."""
    from service.queries.failures import list_failures

    if context.invoked_subcommand:
        return
    page = with_engine(list_failures)
    if as_json:
        print_json(page)
        return
    rows = (
        (
            f"{group.count}{'+' if group.capped else ''}",
            group.error_code,
            group.host,
            shown_time(group.first_seen),
            shown_time(group.last_seen),
            group.example_id,
            group.example_error or "",
        )
        for group in page.failures
    )
    print_table(COLUMNS, rows)
    if page.capped:
        click.echo("There are more groups than these.", err=True)


@failures.command()
@click.argument("code")
@filters("host", "ticket", "sender", "q", "received_after", "received_before")
@bulk_options
@env_file
def retry(code: str, way: Way, **chosen: str | None) -> None:
    """Run all again that failed with this CODE; `none`: without one."""
    from service.postgres.selection import Selection

    retry_all(selection(Selection, {**chosen, "error_code": code}, status="failed"), way)
