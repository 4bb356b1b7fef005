"""`holdfast alerts`: list open and resolved alerts."""

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.terminal import Column, json_option, print_json, print_table
from service.cli.times import shown_time

COLUMNS = (
    Column("opened", whole=True),
    Column("resolved", whole=True),
    Column("cause", whole=True),
    Column("count", whole=True),
    Column("what"),
    Column("told"),
)


@click.command()
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="Most to list.")
@json_option
@anywhere
def alerts(limit: int, *, as_json: bool) -> None:
    """List alerts: open ones first, newest first."""
    page = with_backend(lambda backend: backend.alerts(limit))
    rows = (
        (
            shown_time(alert.opened_at),
            shown_time(alert.resolved_at) if alert.resolved_at else "",
            alert.cause,
            alert.count,
            alert.summary,
            ", ".join(f"{each.channel} {each.status}" for each in alert.deliveries if each.news == "opened"),
        )
        for alert in page.alerts
    )
    print_json(page) if as_json else print_table(COLUMNS, rows)
