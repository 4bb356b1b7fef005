"""The command: `python -m benchmarks all`."""

import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

import click
import uvloop

from benchmarks import away, intake, large, pickup, work
from benchmarks.ground import Broken, Ground, open_ground
from benchmarks.results import Section, render, write
from service.local.servers import ServerError

_RESULTS = Path(__file__).with_name("RESULTS.md")

Part = Callable[[Ground, int, bool], Coroutine[None, None, Section]]
_PARTS: Mapping[str, Part] = {
    "intake": intake.run,
    "work": work.run,
    "pickup": pickup.run,
    "away": away.run,
    "large": large.run,
}


@click.command()
@click.argument("part", type=click.Choice([*_PARTS, "all"]))
@click.option("--rounds", default=5, show_default=True, help="How often each contender has its turn.")
@click.option("--quick", is_flag=True, help="Small numbers, to see that it runs; nothing is written.")
def main(part: str, rounds: int, *, quick: bool) -> None:
    """Measure Holdfast beside other services, and write benchmarks/RESULTS.md."""
    try:
        with open_ground() as ground:
            for name in _PARTS if part == "all" else [part]:
                section = uvloop.run(_PARTS[name](ground, rounds, quick))
                text = render(section, rounds)
                click.echo(text)
                if not quick:
                    write(_RESULTS, [text])
    except (Broken, ServerError) as exc:
        click.echo(exc, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
