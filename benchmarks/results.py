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

_HOW = """# Holdfast beside what one would build instead

`make bench` measured this and wrote it; `python -m benchmarks intake` measures one part of it, `--help` names the
others. The machine has other things to do, too: so look at the ratios, not at milliseconds. In each round every
contender has its turn, one after the other, with the same Postgres (a database each, `fsync` on), the same Valkey and
the same files; a ratio compares two turns of the same round. A cell is the median of the rounds with the least and the
most: `0.40 (0.38..0.45)`. An aim is what the project wants to reach; the median decides.

*Processor time* is what the process itself used, its children included, for one webhook or one e-mail: it says
more than speed where the processors have other things to do.

Holdfast runs with `LOG_LEVEL=WARNING` here; a line for each webhook and e-mail, as by default, takes it a twentieth
more processor time.
"""


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, the least and the most."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{_show(self.median)} ({_show(self.least)}..{_show(self.most)})"


@dataclass(frozen=True)
class Aim:
    """What the project wants to reach, and what it has."""

    wanted: str
    got: Spread
    reached: bool


@dataclass(frozen=True)
class Section:
    """A part's results."""

    title: str
    about: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    aims: Sequence[Aim]


def spread(values: Iterable[float]) -> Spread:
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Compare two contenders round by round."""
    return spread(a / b for a, b in zip(over, under, strict=True))


def at_least(wanted: float, of: str, got: Spread) -> Aim:
    return Aim(f"at least {wanted:g} {of}", got, got.median >= wanted)


def below(wanted: float, of: str, got: Spread) -> Aim:
    return Aim(f"less than {wanted:g} {of}", got, got.median < wanted)


def render(section: Section, rounds: int) -> str:
    """Write a section as Markdown."""
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
    """Put these sections in the place of those with the same titles; the others stay as they are."""
    kept = _sections(path.read_text()) if path.exists() else {}
    for section in sections:
        kept |= _sections(section)
    path.write_text("\n".join([_HOW, *kept.values()]))


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
