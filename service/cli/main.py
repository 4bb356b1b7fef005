"""The command `holdfast`: all commands, and the exit of any of them for a wrong setting."""

import sys
from typing import Any

import click

from service.cli.alerts import alerts
from service.cli.check import check
from service.cli.emails import emails
from service.cli.failures import failures
from service.cli.local import demo, drill, send, up
from service.cli.processes import alive, migrate, release, web, worker
from service.cli.quarantine import quarantine
from service.cli.reconcile import reconcile
from service.cli.retry import retries
from service.cli.status import activity, status
from service.cli.storage import storage
from service.cli.tail import tail
from service.cli.takeover import takeover
from service.errors import SettingsError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script for completion in a shell.

    For bash: source <(holdfast completion bash)
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 click has all three
    click.echo(kind(context.find_root().command, {}, "holdfast", "_HOLDFAST_COMPLETE").source(), nl=False)


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
        """Print the commands in sections."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                width = formatter.width - 20
                formatter.write_dl(
                    [(f"{each.name:<10}", each.get_short_help_str(width)) for each in commands]
                )


def _print_version(context: click.Context, _: click.Parameter, is_given: bool) -> None:  # noqa: FBT001 as click calls it
    if is_given:
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
    """Accept Zendesk's webhooks and never lose an e-mail or an attachment.

    Commands exit with 0 for success, 1 for failure, 2 for wrong options or settings; some have further codes.
    """


for section in SECTIONS.values():
    for command in section:
        main.add_command(command)
