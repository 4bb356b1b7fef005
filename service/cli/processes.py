"""`holdfast web`, `worker`, `alive`, `migrate` and `release`: the commands that a platform runs."""

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from service.cli.check import print_checks
from service.cli.environment import with_resources
from service.cli.lean_imports import lean_imports

if TYPE_CHECKING:
    from service.checks.probe import Check

_NOT_RELEASED = "Not released: nothing was migrated, and the release before keeps running."


@click.command()
def web() -> None:
    """Serve the webhook and the API on $HOST:$PORT."""
    with lean_imports():
        from service.config.reading import read_web_settings
        from service.web.server import sockets

    settings = read_web_settings()
    with ExitStack() as stack:
        try:
            listeners = stack.enter_context(sockets.listening(settings.host, settings.port))
        except OSError as exc:
            reason = str(exc.strerror or exc).partition(" (")[0]
            click.echo(
                f"cannot listen on {settings.host}:{settings.port}: {reason}. Set PORT or HOST, or end the other program.",
                err=True,
            )
            sys.exit(1)
        if settings.web_concurrency > 1:
            stack.enter_context(sockets.counting_together())
        with lean_imports():
            from service.resources import check_usable
            from service.web.server.serve import serve

        check_usable(settings)
        serve(settings, listeners)


@click.command()
def worker() -> None:
    """Process jobs, like `arq service.worker.WorkerSettings`."""
    with lean_imports():
        from arq.cli import cli

        import service.worker.settings  # noqa: F401 arq would import it later

    cli.main(["service.worker.WorkerSettings"], prog_name="arq")


@click.command()
@click.argument("process", type=click.Choice(["web", "worker"]))
def alive(process: str) -> None:
    """Check whether web or worker of this machine is alive.

    The command is fast, for the probe of a platform. Exits with 1 if the process is not alive.
    """
    from service.telemetry.alive import main

    main([process])


@click.command()
def migrate() -> None:
    """Run the migrations, like `alembic upgrade head`."""
    from service.config.reading import read_settings

    read_settings("database_url")
    run_migrations()


@click.command()
def release() -> None:
    """Check the settings, then run the migrations.

    This is for the release phase of a platform, with the settings of web and worker. Exits with 2 for an invalid setting, and with 1 for a setting that does not work or a migration that fails. Nothing is
    migrated in either case, and Heroku keeps the release before. A warning does not stop the release.
    """
    checks = _check_release()
    print_checks([check for check in checks if check.ok is not True] or checks)
    if any(check.ok is False for check in checks):
        click.echo(_NOT_RELEASED, err=True)
        sys.exit(1)
    run_migrations()
    from service.telemetry.version import commit, version

    click.echo(f"Ready: version {version()}, commit {commit()}.")


def run_migrations(revision: str = "head") -> None:
    """Run the missing migrations, up to a revision; exits with 1 and a message if that is not possible."""
    from alembic import command
    from alembic.util import CommandError

    from service.migrations.revisions import config

    try:
        command.upgrade(config(), revision)
    except CommandError as exc:
        click.echo(str(exc), err=True)
        sys.exit(1)


def _check_release() -> "list[Check]":
    from service.checks.report import check_release
    from service.config.reading import read_web_settings
    from service.errors import SettingsError
    from service.resources import check_usable

    try:
        # Heroku's release phase has the settings of web and worker alike.
        settings = read_web_settings()
        check_usable(settings)
    except SettingsError as exc:
        for line in exc.args:
            click.echo(str(line), err=True)
        click.echo(_NOT_RELEASED, err=True)
        sys.exit(2)
    return with_resources(check_release)
