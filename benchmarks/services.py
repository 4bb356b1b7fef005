"""The measured services, with the commands for their tables, web process and worker."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.testbed import Testbed, make_database, python

_BIN = Path(sys.executable).parent
_RECORD = python("-m", "benchmarks.contenders.record")


@dataclass(frozen=True)
class Service:
    """A service that accepts webhooks and processes them; its database has the same name."""

    name: str
    tables: Sequence[str]
    web: Sequence[str]
    worker: Sequence[str]


HOLDFAST = Service(
    "holdfast",
    python("-m", "alembic", "upgrade", "head"),
    python("-m", "service", "web"),
    [str(_BIN / "arq"), "service.worker.WorkerSettings"],
)
SIMPLE = Service(
    "simple",
    _RECORD,
    python("-m", "benchmarks.contenders.simple_web"),
    [str(_BIN / "arq"), "benchmarks.contenders.simple_worker.WorkerSettings"],
)
USUAL = Service(
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


async def prepare(testbed: Testbed) -> list[Service]:
    """Make the databases, and return the services; those of the group `bench` only if it is installed."""
    services = [HOLDFAST, SIMPLE, *([USUAL] if find_spec("dramatiq") and find_spec("fastapi") else [])]
    for service in services:
        await make_database(testbed, service.name, *service.tables)
    return services
