"""`holdfast failures`: list failures by group, and retry or dismiss a group."""

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.dismiss import dismiss_group
from service.cli.filters import filters, selection
from service.cli.retry import BulkOptions, bulk_options, start_bulk_retry
from service.cli.terminal import (
    Column,
    console,
    json_option,
    print_facts,
    print_json,
    print_table,
)
from service.cli.times import shown_time
from service.error_guide import action_on

COLUMNS = (
    Column("count", whole=True),
    Column("code"),
    Column("host"),
    Column("first", whole=True, least_width=120),
    Column("last", whole=True),
    Column("e-mail", whole=True),
    Column("example", least_width=100),
)


@click.group(invoke_without_command=True)
@json_option
@anywhere
@click.pass_context
def failures(context: click.Context, *, as_json: bool) -> None:
    """List failures by cause, or retry or dismiss a group."""
    if context.invoked_subcommand:
        return
    page = with_backend(lambda backend: backend.failures())
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
    if page.failures and console().is_terminal:  # a pipe gets rows alone
        click.echo("\nWhat to do")
        print_facts(
            (code, action_on(code)) for code in dict.fromkeys(group.error_code for group in page.failures)
        )
    if page.capped:
        click.echo("There are more groups: only the largest are shown.", err=True)


failures.add_command(dismiss_group)


@failures.command()
@click.argument("code")
@filters("host", "ticket", "sender", "q", "received_after", "received_before")
@bulk_options
@anywhere
def retry(code: str, options: BulkOptions, **chosen: str | bool | None) -> None:
    """Retry all e-mails that failed with this error CODE.

    `none`: those that failed without a code.
    """
    from service.postgres.selection import Selection

    start_bulk_retry(selection(Selection, {**chosen, "error_code": code}, status="failed"), options)
