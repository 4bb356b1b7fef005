"""`holdfast send`: send a webhook as Zendesk would."""

from pathlib import Path
from typing import BinaryIO

import click


@click.command()
@click.argument("payload", type=click.File("rb"))
@click.option(
    "--attach",
    "files",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="A file to serve as an attachment; may be given several times.",
)
@click.option("--url", help="Where Holdfast is; else http://127.0.0.1:$PORT.")
@click.option(
    "--env-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Settings that the environment does not have; else .holdfast/env, which `holdfast up` writes.",
)
def send(payload: BinaryIO, files: tuple[Path, ...], url: str | None, env_file: Path | None) -> None:
    """Sign PAYLOAD (a JSON file, - for stdin), post it, and wait for what becomes of its attached files."""
    from service.local.send import run

    run(payload.read(), files, url, env_file)
