"""The processes of production: what a Procfile starts."""

import gc
import sys
from contextlib import ExitStack

import click


@click.command()
def web() -> None:
    """Serve the webhook and the API on $HOST:$PORT."""
    from service.config.reading import NEEDED, read_settings
    from service.web.server import ports

    settings = read_settings(*NEEDED, "zendesk_webhook_secrets")
    with ExitStack() as stack:
        try:
            sockets = stack.enter_context(ports.listening(settings.host, settings.port))
        except OSError as exc:
            reason = str(exc.strerror or exc).partition(" (")[0]
            click.echo(f"cannot listen on {settings.host}:{settings.port}: {reason}", err=True)
            sys.exit(1)
        if settings.web_concurrency > 1:
            stack.enter_context(ports.counting_together())
        gc.disable()  # to load modules makes no garbage, and `serve` enables it again
        from service.resources import check_usable
        from service.web.server.serve import serve

        check_usable(settings)
        serve(settings, sockets)


@click.command()
def worker() -> None:
    """Work on jobs; the same as `arq service.worker.WorkerSettings`."""
    from arq.cli import cli

    cli.main(["service.worker.WorkerSettings"], prog_name="arq")


@click.command()
@click.argument("process", type=click.Choice(["web", "worker"]))
def alive(process: str) -> None:
    """Say whether the web process or the worker of this machine is alive, for a platform's probe."""
    from service.telemetry.alive import main

    main([process])


@click.command()
def migrate() -> None:
    """Bring the database to this version's tables; the same as `alembic upgrade head`."""
    from service.config.reading import read_settings

    read_settings("database_url")
    run_migrations()


def run_migrations(revision: str = "head") -> None:
    """Run what was not run yet, up to a revision; exits, after a sentence, where that cannot be done."""
    from alembic import command
    from alembic.util import CommandError

    from service.migrations.revisions import config

    try:
        command.upgrade(config(), revision)
    except CommandError as exc:
        click.echo(str(exc), err=True)
        sys.exit(1)
