"""What the commands stand on that are typed into another terminal: settings of a `holdfast up`, resources."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from dotenv import dotenv_values

if TYPE_CHECKING:
    from service.resources import Resources

T = TypeVar("T")
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
    if not os.environ.get("DATABASE_URL") and path.exists():
        for name, value in dotenv_values(path, interpolate=False).items():
            if not os.environ.get(name):
                os.environ[name] = value or ""


def with_resources(work: "Callable[[Resources], Awaitable[T]]") -> T:
    """Run one piece of work over the service's resources; its errors are one line, exit code 1."""
    import structlog

    from service.errors import HoldfastError
    from service.resources import open_resources, read_settings_for_resources

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("WARNING"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

    async def run() -> T:
        async with open_resources(read_settings_for_resources()) as res:
            return await work(res)

    try:
        return asyncio.run(run())
    except HoldfastError as exc:
        click.echo(exc.message, err=True)
        sys.exit(1)
