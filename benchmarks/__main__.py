"""The command: `python -m benchmarks all`."""

import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

import click
import uvloop

from benchmarks import away, gate, intake, large, pickup, work
from benchmarks.results import Section, render, write
from benchmarks.testbed import MeasurementError, Testbed, open_testbed
from service.local.servers import ServerError

_RESULTS = Path(__file__).with_name("RESULTS.md")

Part = Callable[[Testbed, int, bool], Coroutine[None, None, Section]]
_PARTS: Mapping[str, Part] = {
    "intake": intake.run,
    "work": work.run,
    "work-tls": work.run_tls,
    "pickup": pickup.run,
    "away": away.run,
    "large": large.run,
}


@click.command()
@click.argument("part", type=click.Choice([*_PARTS, "all", "gate", "record"]))
@click.option("--rounds", default=5, show_default=True, help="Rounds; each service is measured once in each.")
@click.option("--quick", is_flag=True, help="Measure briefly, to test the benchmarks; write nothing.")
def main(part: str, rounds: int, *, quick: bool) -> None:
    """Measure Holdfast and other implementations, and write benchmarks/RESULTS.md.

    "gate" compares processor times with those in benchmarks/recorded.toml, and "record" writes them there.
    """
    try:
        with open_testbed() as testbed:
            if part == "gate":
                uvloop.run(gate.check(testbed, rounds))
                return
            if part == "record":
                click.echo(uvloop.run(gate.record(testbed, 4 * rounds)))
                return
            for name in _PARTS if part == "all" else [part]:
                section = uvloop.run(_PARTS[name](testbed, rounds, quick))
                text = render(section, rounds)
                click.echo(text)
                if not quick:
                    write(_RESULTS, [text])
    except (MeasurementError, ServerError) as exc:
        click.echo(exc, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
