"""Ratios of interleaved rounds, and the file that shows them."""

import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_HOW = """# Holdfast compared with other implementations

`make bench` measured and wrote this page; `python -m benchmarks intake` measures one part, and `--help` lists the
others. The machine had other work, too, so compare ratios, not milliseconds. In each round the services run one after
the other, with the same Postgres (a database each, `fsync` on), the same Valkey and the same files; a ratio compares
two runs of the same round. A cell is the median of the rounds with the minimum and the maximum: `0.40 (0.38..0.45)`.
An aim is reached if the median reaches it.

*Processor time* is the time of the process and its children for one webhook or e-mail. On a busy machine it says more
than speed.

Except for intake, Holdfast runs with `LOG_LEVEL=WARNING`; the default, with a line for each e-mail, costs about 5 % more
processor time.
"""


@dataclass(frozen=True)
class Spread:
    """The median, minimum and maximum of some rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{_show(self.median)} ({_show(self.least)}..{_show(self.most)})"


@dataclass(frozen=True)
class Aim:
    """A figure that the project wants to reach, and the measured one."""

    wanted: str
    got: Spread
    reached: bool


@dataclass(frozen=True)
class Section:
    """The results of a part."""

    title: str
    about: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    aims: Sequence[Aim]


def spread(values: Iterable[float]) -> Spread:
    known = list(values)
    return Spread(statistics.median(known), min(known), max(known))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Compare two services round by round."""
    return spread(a / b for a, b in zip(over, under, strict=True))


def at_least(wanted: float, of: str, got: Spread) -> Aim:
    return Aim(f"at least {wanted:g} {of}", got, got.median >= wanted)


def below(wanted: float, of: str, got: Spread) -> Aim:
    return Aim(f"less than {wanted:g} {of}", got, got.median < wanted)


def render(section: Section, rounds: int) -> str:
    """Return a section as Markdown."""
    lines = [
        f"## {section.title}",
        "",
        section.about,
        "",
        f"*{_machine()}; {rounds} round{'s' * (rounds > 1)}.*",
        "",
    ]
    lines += [_row(section.header), _row("---" for _ in section.header)]
    lines += [_row(row) for row in section.rows]
    if section.aims:
        lines += ["", "| aim | measured | |", "| --- | --- | --- |"]
        lines += [
            _row((aim.wanted, aim.got, "reached" if aim.reached else "not reached")) for aim in section.aims
        ]
    return "\n".join(lines) + "\n"


def write(path: Path, sections: Iterable[str]) -> None:
    """Replace the sections with these titles; the others stay as they are."""
    existing = _sections(path.read_text()) if path.exists() else {}
    for section in sections:
        existing |= _sections(section)
    path.write_text("\n".join([_HOW, *existing.values()]))


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.rstrip() + "\n" for part in parts if part.startswith("## ")}


def _machine() -> str:
    names = ("aiohttp", "arq", "SQLAlchemy", "asyncpg", "uvloop")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = os.getloadavg()[2]
    return (
        f"{datetime.now(UTC):%d %B %Y}: {os.cpu_count()} cores, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}, {versions}; load average {load:.1f}"
    )


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _show(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"
