"""The processes of production: what a Procfile starts."""

import sys
from pathlib import Path

import click


@click.command()
def web() -> None:
    """Serve the webhook and the API on $HOST:$PORT."""
    from service.resources import read_settings_for_resources
    from service.web.app import serve

    settings = read_settings_for_resources("zendesk_webhook_secrets")
    try:
        serve(settings)
    except OSError as exc:
        click.echo(f"cannot listen on {settings.host}:{settings.port}: {exc.strerror or exc}", err=True)
        sys.exit(1)


@click.command()
def worker() -> None:
    """Work on jobs; the same as `arq service.worker.WorkerSettings`."""
    from arq.cli import cli

    cli.main(["service.worker.WorkerSettings"], prog_name="arq")


@click.command()
def migrate() -> None:
    """Bring the database to this version's tables; the same as `alembic upgrade head`."""
    from alembic.config import main

    from service.config.reading import read_settings

    read_settings("database_url")
    ini = Path(__file__).parents[2] / "alembic.ini"
    if not ini.exists():
        click.echo("alembic.ini is not there: run this from a checkout of the repository", err=True)
        sys.exit(2)
    main(["-c", str(ini), "upgrade", "head"])
