"""`holdfast up`: all of Holdfast on this machine."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of web on 127.0.0.1; else $PORT, else 8000."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".holdfast"),
    show_default=True,
    help="Where the data is kept between runs.",
)
@click.option("--workers", type=click.IntRange(1, 50), default=1, show_default=True, help="Worker processes.")
def up(port: int | None, data_dir: Path, workers: int) -> None:
    """Run everything here: Postgres and Valkey (unless DATABASE_URL, REDIS_URL are set), web, workers. Ctrl-C ends it."""
    from service.local.up import run

    run(port, data_dir, workers)
