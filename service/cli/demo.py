"""`holdfast demo`: see it work, with nothing set up."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of web; else 8000, or a free one if that is taken."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to keep the data; else .holdfast/demo, which every run begins anew.",
)
def demo(port: int | None, data_dir: Path | None) -> None:
    """Run everything here, and a stand-in Zendesk that sends 20 e-mails with attachments. Ctrl-C ends it."""
    from service.local.demo import run

    run(port, data_dir)
