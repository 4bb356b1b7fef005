"""Settings of a running `holdfast up`, for the commands that are typed into another terminal."""

import os
from pathlib import Path

import click
from dotenv import dotenv_values

DEFAULT_FILE = Path(".holdfast/env")

env_file = click.option(
    "--env-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_FILE,
    show_default=True,
    expose_value=False,
    callback=lambda _context, _parameter, path: use(path),
    help="Settings to use where DATABASE_URL is not set; `holdfast up` writes this file.",
)


def use(path: Path) -> None:
    """Add the file's settings to the environment, unless that has settings of its own."""
    if "DATABASE_URL" not in os.environ and path.exists():
        for name, value in dotenv_values(path).items():
            os.environ.setdefault(name, value or "")
