"""`holdfast up`, `demo`, `send` and `drill`: try Holdfast on this machine."""

from pathlib import Path
from typing import BinaryIO

import click

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of web on 127.0.0.1; default: $PORT, else 8000."
)
@click.option(
    "--data-dir",
    type=_DIRECTORY,
    default=Path(".holdfast"),
    show_default=True,
    help="Directory that keeps the data between runs.",
)
@click.option("--workers", type=click.IntRange(1, 50), default=1, show_default=True, help="Worker processes.")
def up(port: int | None, data_dir: Path, workers: int) -> None:
    """Run Holdfast on this machine, until Ctrl-C.

    Starts web and workers; also Postgres and Valkey, unless DATABASE_URL and REDIS_URL are set.
    """
    from service.local.up import run

    run(port, data_dir, workers)


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of web; default: 8000, or a free one if that is taken.",
)
@click.option(
    "--data-dir",
    type=_DIRECTORY,
    help="Directory to keep the data in; default: .holdfast/demo, which every run empties.",
)
def demo(port: int | None, data_dir: Path | None) -> None:
    """Run Holdfast with a stand-in Zendesk, until Ctrl-C.

    The stand-in sends 20 e-mails with attachments.
    """
    from service.local.demo import run

    run(port, data_dir)


_url_option = click.option("--url", help="Address of Holdfast; default: http://127.0.0.1:$PORT.")
_env_file_option = click.option(
    "--env-file",
    type=_FILE,
    help="Settings that the environment lacks; default: .holdfast/env, written by `holdfast up`, or those of a running `holdfast demo`.",
)


@click.command()
@click.argument("payload", type=click.File("rb"))
@click.option(
    "--attach",
    "files",
    type=_FILE,
    multiple=True,
    metavar="FILE",
    help="A file to serve as an attachment; repeat for several.",
)
@_url_option
@_env_file_option
def send(payload: BinaryIO, files: tuple[Path, ...], url: str | None, env_file: Path | None) -> None:
    """Send a webhook as Zendesk would.

    Signs PAYLOAD (a JSON file, - for stdin), posts it, and waits until its attachments are stored. Beside `holdfast demo`,
    a PAYLOAD with no more than ticket_id, subject, from_name, from_email, body_text and body_html reaches the stand-in
    Zendesk as an e-mail, and the webhook names it.
    """
    from service.local.send import run

    run(payload.read(), files, url, env_file)


@click.command()
@click.argument("kind", type=click.Choice(["mail", "thin", "event", "broken", "late", "duplicate"]))
@_url_option
@_env_file_option
def trigger(kind: str, url: str | None, env_file: Path | None) -> None:
    """Send an e-mail of a KIND, and show what becomes of it.

    \b
    mail       with two files
    thin       named by its numbers alone: the worker asks Zendesk for the rest
    event      the event of one file, as from a subscription without a trigger
    broken     what a broken template makes of it: it goes into quarantine
    late       signed a day ago
    duplicate  sent twice: it is one e-mail

    Beside `holdfast demo`, the stand-in Zendesk has the e-mail, and its trigger announces it first. Anywhere else, this command serves the files on 127.0.0.1,
    which a Holdfast on another machine cannot reach. Exits with 0 if Holdfast did what is right.
    """  # noqa: D301 click's mark of lines to keep
    from service.local.trigger import run

    run(kind, url, env_file)


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(5, 86_400), default=60, show_default=True, help="How long to send."
)
@click.option(
    "--rate", type=click.FloatRange(0.1, 1_000), default=20, show_default=True, help="Webhooks per second."
)
@click.option(
    "--faults",
    default="all",
    show_default=True,
    help="all, none, or names such as redis or web.kill, comma separated.",
)
@click.option("--seed", type=int, help="Repeat the drill with this seed.")
@click.option(
    "--data-dir",
    type=_DIRECTORY,
    help="Directory for log, rows and objects; the results of an earlier drill are removed.",
)
def drill(seconds: float, rate: float, faults: str, seed: int | None, data_dir: Path | None) -> None:
    """Inject faults, and prove that nothing is lost.

    The drill runs a whole Holdfast on this machine. Exits with 1 if something was lost, or if the drill was interrupted.
    """
    import secrets

    from service.local.drill.plan import DrillPlan, choose
    from service.local.drill.run import run

    try:
        chosen = choose(faults)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--faults") from None
    run(DrillPlan(seconds, rate, secrets.randbelow(10_000) if seed is None else seed, chosen), data_dir)
