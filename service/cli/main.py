"""The group of all commands, and how a wrong setting ends any of them."""

import sys
from typing import Any

import click

from service.cli.activity import activity
from service.cli.alerts import alerts
from service.cli.check import check
from service.cli.completion import completion
from service.cli.demo import demo
from service.cli.drill import drill
from service.cli.emails import emails
from service.cli.failures import failures
from service.cli.processes import alive, migrate, web, worker
from service.cli.quarantine import quarantine
from service.cli.reconcile import reconcile
from service.cli.release import release
from service.cli.retries import retries
from service.cli.send import send
from service.cli.status import status
from service.cli.storage import storage
from service.cli.tail import tail
from service.cli.takeover import takeover
from service.cli.up import up
from service.errors import SettingsError

SECTIONS = {
    "Operate": (
        status,
        check,
        emails,
        failures,
        retries,
        quarantine,
        reconcile,
        storage,
        alerts,
        activity,
        tail,
    ),
    "Run": (web, worker, alive, migrate, release, takeover),
    "Try": (up, demo, send, drill),
    "More": (completion,),
}


class Holdfast(click.Group):
    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 as click declares it
        try:
            return super().invoke(ctx)
        except SettingsError as exc:
            click.echo(str(exc), err=True)
            sys.exit(2)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 as click declares it
        """Print the commands by what they are for."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                room = formatter.width - 20
                formatter.write_dl([(f"{each.name:<10}", each.get_short_help_str(room)) for each in commands])


def _print_version(context: click.Context, _: click.Parameter, is_asked: bool) -> None:  # noqa: FBT001 as click calls it
    if is_asked:
        from service.telemetry.version import commit, version

        click.echo(f"holdfast, version {version()}, commit {commit()}")
        context.exit()


@click.group(cls=Holdfast, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and the commit.",
)
def main() -> None:
    """Take in Zendesk's webhooks and never lose an e-mail or an attachment.

    Commands exit with 0 if all went well, 1 if not, 2 if words or settings are wrong; `status` has codes of its own.
    """


for section in SECTIONS.values():
    for command in section:
        main.add_command(command)
