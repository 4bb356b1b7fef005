"""`holdfast storage`: what can be done with the objects, wherever they are kept."""

import click

from service.cli.verify import verify


@click.group()
def storage() -> None:
    """Look after the objects, which the files of e-mails are kept as."""


storage.add_command(verify)
