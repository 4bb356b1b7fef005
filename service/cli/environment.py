"""Settings and resources of the commands that an operator types beside a running Holdfast."""

import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.errors import SettingsError
from service.formatting import printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.errors import HoldfastError
    from service.resources import Resources

T = TypeVar("T")
DEFAULT_FILE = Path(".holdfast/env")
DEMO_FILE = Path(".holdfast/demo/env")
_OTHER_FILE = "service.cli.environment.other_file"  # in click's `meta`
# By the beginning of an error's code.
_NEXT_STEPS = {
    "database_slow": "Look at Postgres's load, and at long transactions; `holdfast check` tells more.",
    "database_": "Check DATABASE_URL, and that Postgres runs; `holdfast check` tells more.",
    "rate_limited": "Run it again once Zendesk allows calls again, mostly in a minute.",
    "storage_": "Check STORAGE_URL and its credentials; `holdfast check` tells more.",
    "email_not_found": "`holdfast emails list` lists the newest.",
    "webhook_not_found": "`holdfast quarantine list` lists the newest.",
    "bulk_retry_not_found": "`holdfast retries list` lists the newest.",
    "receipt_not_found": "`holdfast receipts list` lists the newest.",
    "hold_not_found": "`holdfast holds list` lists all.",
    "rule_not_found": "`holdfast retention list` lists all.",
    "reconciliation_not_found": "`holdfast reconcile list` lists the newest.",
}

env_file = click.option(
    "--env-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_FILE,
    show_default=True,
    expose_value=False,
    callback=lambda context, _parameter, path: _use(context, path),
    help="Settings to use if DATABASE_URL is not set; `holdfast up` writes this file.",
)


def use(path: Path) -> None:
    """Add the settings of a file to the environment, unless DATABASE_URL is set there."""
    if not os.environ.get("DATABASE_URL") and path.exists():
        from service.config.reading import read_env_file

        for name, value in read_env_file(path).items():
            if not os.environ.get(name):
                os.environ[name] = value


def _use(context: click.Context, path: Path) -> None:
    use(path)
    if path.exists():
        return
    if path != DEFAULT_FILE:
        context.meta[_OTHER_FILE] = f"There is no file {path}."
    elif DEMO_FILE.exists():
        command = f"{context.command_path} --env-file {DEMO_FILE}"
        context.meta[_OTHER_FILE] = f"For the demo of this folder, run `{command}`."


def settings_error(context: click.Context, error: SettingsError) -> str:
    """Return the line about a wrong setting; without DATABASE_URL, it names the file of settings that this command needs."""
    hint = context.meta.get(_OTHER_FILE)
    return f"{error} {hint}" if hint and str(error).startswith("DATABASE_URL is not set") else str(error)


def actor() -> str:
    """Return the user and the host, for the list of operators' actions."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # the user id of a container may have no name
        user = f"user {os.getuid()}"
    return f"{printable(user)[:100]}@{printable(socket.gethostname())[:100]} (command line)"


def with_engine(
    work: "Callable[[AsyncEngine], Awaitable[T]]", *, pool_size: int = 1, seconds: float | None = None
) -> T:
    """Run queries of Postgres, and load no library for other servers; errors as in `run`.

    `seconds` is the longest wait for a statement, by default DATABASE_SECONDS.
    """
    from service.config.reading import read_settings
    from service.postgres.engine import close_engine, create_engine

    async def work_with() -> T:
        settings = read_settings("database_url")
        assert settings.database_url  # noqa: S101 read_settings requires it
        url = settings.database_url.get_secret_value()
        engine = create_engine(url, pool_size=pool_size, seconds=seconds or settings.database_seconds)
        try:
            return await work(engine)
        finally:
            await close_engine(engine)

    return run(work_with())


def with_resources(work: "Callable[[Resources], Awaitable[T]]") -> T:
    """Run work with the service's resources; errors as in `run`."""
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


@contextmanager
def going_on(said: str) -> Iterator[None]:
    """Let Ctrl-C end only this command, where workers go on with what it began: print that, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(said, err=True)
        sys.exit(130)


async def warn_without_worker(engine: "AsyncEngine") -> bool:
    """Print a warning if no worker is alive; return whether it was printed."""
    from service.postgres.engine import connect
    from service.queries.workers import workers_of

    async with connect(engine) as conn:
        return say_without_worker(is_alive=any(worker.state == "alive" for worker in await workers_of(conn)))


def say_without_worker(*, is_alive: bool) -> bool:
    """Print a warning unless a worker is alive; return whether it was printed."""
    if not is_alive:
        click.echo("No worker is alive: start one with `holdfast worker`.", err=True)
    return not is_alive


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run work; an error is printed as one line, with the next step, and ends the process with 1."""
    import asyncio

    from service.errors import HoldfastError

    try:
        return asyncio.run(work)
    except HoldfastError as exc:
        click.echo(printable(with_next_step(exc)), err=True)
        sys.exit(1)


def with_next_step(error: "HoldfastError") -> str:
    """Return the message of an error, with the command that helps if it names none."""
    kind = next((kind for kind in _NEXT_STEPS if error.code.startswith(kind)), None)
    if kind is None or "What to do:" in error.message or "`holdfast" in error.message:
        return error.message
    return f"{error.message.rstrip('.')}. {_NEXT_STEPS[kind]}"
