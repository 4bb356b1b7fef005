"""`holdfast status`: tell whether everything is safe."""

import click

from service.cli.environment import env_file, with_engine


@click.command()
@env_file
def status() -> None:
    """Show how many e-mails there are in each state, and how long the oldest has waited."""
    from rich.console import Console
    from rich.table import Table

    from service.queries import overview

    stats = with_engine(overview.stats)
    table = Table("state", "e-mails")
    for name, number in [*stats.by_status.items(), ("quarantined", stats.quarantined)]:
        table.add_row(name, f"{number:,}{'+' if name in stats.capped else ''}")
    Console().print(table)
    waiting = stats.oldest_waiting_seconds
    click.echo(
        "Nothing waits." if waiting is None else f"The oldest e-mail not finished waits {waiting:.0f} s."
    )
