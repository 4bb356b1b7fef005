"""The command `holdfast`: all commands, and the exit of any of them for a wrong setting."""

import errno
import os
import sys
from importlib import import_module
from typing import Any

import click

from service.errors import SettingsError

# The module of each command, by section. A command imports only its own.
SECTIONS = {
    "Operate": {
        "status": "status",
        "check": "check",
        "complete": "complete",
        "emails": "emails",
        "failures": "failures",
        "retries": "retry",
        "quarantine": "quarantine",
        "reconcile": "reconcile",
        "backfill": "backfill",
        "storage": "storage",
        "erase": "erase",
        "erasures": "erase",
        "purge": "receipts",
        "receipts": "receipts",
        "holds": "holds",
        "retention": "retention",
        "evidence": "evidence",
        "alerts": "alerts",
        "activity": "status",
        "tail": "tail",
        "listen": "listen",
        "open": "login",
    },
    "From anywhere": {"login": "login", "logout": "login"},
    "Run": {
        "web": "processes",
        "worker": "processes",
        "alive": "processes",
        "migrate": "processes",
        "release": "processes",
        "connect": "connect",
        "takeover": "takeover",
        "merge": "merge",
    },
    "Try": dict.fromkeys(("up", "demo", "send", "trigger", "drill"), "local"),
    "More": {"completion": "main"},
}
# Errors of a write to an open file, such as stdout.
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_MODULES = {name: module for section in SECTIONS.values() for name, module in section.items()}


class Holdfast(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 as click declares it
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 likewise
        """Import a command when it is asked for."""
        if cmd_name not in _MODULES:
            return None
        command = getattr(import_module(f"service.cli.{_MODULES[cmd_name]}"), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 the table names commands
        return command

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 as click declares it
        try:
            return super().main(*args, **options)
        except OSError as exc:
            if exc.errno not in _UNWRITABLE or exc.filename:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's end tries again
            click.echo(f"Error: cannot write the output: {exc.strerror}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 as click declares it
        try:
            return super().invoke(ctx)
        except SettingsError as exc:
            from service.cli.environment import settings_error

            click.echo(settings_error(ctx, exc), err=True)
            sys.exit(2)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the commands in sections."""
        width = formatter.width - 20
        for title, names in SECTIONS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl(
                    [(f"{name:<10}", each.get_short_help_str(width)) for name, each in commands if each]
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
