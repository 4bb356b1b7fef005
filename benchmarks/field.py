"""Who competes: for each the commands that make its tables, and that run its web process and its worker."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.ground import Ground, make_database, python

_BIN = Path(sys.executable).parent
_RECORD = python("-m", "benchmarks.contenders.record")


@dataclass(frozen=True)
class Contender:
    """A service that takes webhooks and works on them; `name` is also that of its database."""

    name: str
    tables: Sequence[str]
    web: Sequence[str]
    worker: Sequence[str]


HOLDFAST = Contender(
    "holdfast",
    python("-m", "alembic", "upgrade", "head"),
    python("-m", "service", "web"),
    [str(_BIN / "arq"), "service.worker.WorkerSettings"],
)
SIMPLE = Contender(
    "simple",
    _RECORD,
    python("-m", "benchmarks.contenders.simple_web"),
    [str(_BIN / "arq"), "benchmarks.contenders.simple_worker.WorkerSettings"],
)
USUAL = Contender(
    "usual",
    _RECORD,
    python("-m", "benchmarks.contenders.usual_web"),
    [
        str(_BIN / "dramatiq"),
        "benchmarks.contenders.usual_worker",
        "--processes",
        "1",
        "--threads",
        "8",
        "--path",
        ".",
    ],
)


async def prepare(ground: Ground) -> list[Contender]:
    """Make the databases of those whose packages are installed; without the group `bench` that is not all."""
    contenders = [HOLDFAST, SIMPLE, *([USUAL] if find_spec("dramatiq") and find_spec("fastapi") else [])]
    for contender in contenders:
        await make_database(ground, contender.name, *contender.tables)
    return contenders
