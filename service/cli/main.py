"""The group of all commands, and how a wrong setting ends any of them."""

import sys
from typing import Any

import click

from service.cli.demo import demo
from service.cli.drill import drill
from service.cli.emails import emails
from service.cli.processes import migrate, web, worker
from service.cli.quarantine import quarantine
from service.cli.send import send
from service.cli.status import status
from service.cli.up import up
from service.errors import SettingsError


class Holdfast(click.Group):
    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 as click declares it
        try:
            return super().invoke(ctx)
        except SettingsError as exc:
            click.echo(str(exc), err=True)
            sys.exit(2)


@click.group(cls=Holdfast, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="holdfast")
def main() -> None:
    """Take in Zendesk's webhooks and never lose an e-mail or an attachment."""


for command in (up, demo, drill, send, status, emails, quarantine, web, worker, migrate):
    main.add_command(command)
