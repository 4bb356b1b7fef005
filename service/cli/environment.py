"""What the commands stand on that are typed into another terminal: settings of a `holdfast up`, resources."""

import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.formatting import printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

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
        from service.config.env_file import read_env_file

        for name, value in read_env_file(path).items():
            if not os.environ.get(name):
                os.environ[name] = value


def actor() -> str:
    """Name who types this, for the record of what operators did."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number that nobody gave a name
        user = f"user {os.getuid()}"
    return f"{printable(user)[:100]}@{printable(socket.gethostname())[:100]} (command line)"


def with_engine(work: "Callable[[AsyncEngine], Awaitable[T]]") -> T:
    """Run one piece of reading over Postgres, and load no more than that needs; else as `with_resources`."""
    from service.config.reading import read_settings
    from service.postgres.engine import close_engine, create_engine

    async def work_with() -> T:
        settings = read_settings("database_url")
        assert settings.database_url  # noqa: S101 read_settings saw to it
        engine = create_engine(
            settings.database_url.get_secret_value(), pool_size=1, seconds=settings.database_seconds
        )
        try:
            return await work(engine)
        finally:
            await close_engine(engine)

    return run(work_with())


def with_resources(work: "Callable[[Resources], Awaitable[T]]") -> T:
    """Run one piece of work over the service's resources; its errors are one line, exit code 1."""
    import structlog

    from service.postgres.engine import COMMAND
    from service.resources import open_resources, read_settings_for_resources

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("WARNING"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

    async def work_with() -> T:
        async with open_resources(read_settings_for_resources(), COMMAND) as res:
            return await work(res)

    return run(work_with())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one piece of work; its errors are one line, exit code 1."""
    import asyncio

    from service.errors import HoldfastError

    try:
        return asyncio.run(work)
    except HoldfastError as exc:
        click.echo(printable(exc.message), err=True)
        sys.exit(1)
