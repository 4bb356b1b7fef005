"""`holdfast drill`: prove the promise."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(5, 86_400), default=60, show_default=True, help="How long to send."
)
@click.option(
    "--rate", type=click.FloatRange(0.1, 1_000), default=20, show_default=True, help="Webhooks a second."
)
@click.option(
    "--faults",
    default="all",
    show_default=True,
    help="all, none, or names as redis or web.kill, comma separated.",
)
@click.option("--seed", type=int, help="Repeat the drill of this number.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to work and to keep what is left: log, rows, objects. What an earlier drill left is removed.",
)
def drill(seconds: float, rate: float, faults: str, seed: int | None, data_dir: Path | None) -> None:
    """Hurt a whole Holdfast on this machine in every way, and prove that it lost nothing.

    Exits with 1 if it did, or if the drill was broken off.
    """
    import secrets

    from service.local.drill.plan import DrillPlan, choose
    from service.local.drill.run import run

    try:
        chosen = choose(faults)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--faults") from None
    run(DrillPlan(seconds, rate, secrets.randbelow(10_000) if seed is None else seed, chosen), data_dir)
