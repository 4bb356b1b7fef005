"""Run `holdfast drill` with forked processes: importing everything takes two seconds of a processor each time."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

from service.cli.main import main
from tests.support import forked

_run = subprocess.run


def run(command: list[str], **options: Any) -> Any:
    """Fork the migrations, too; run every other command unchanged."""
    own = command[-2:] == ["service", "migrate"]
    return forked.run(command[-2:], options["env"], Path(options["cwd"])) if own else _run(command, **options)


if __name__ == "__main__":
    setattr(asyncio, "create_subprocess_exec", forked.create_subprocess_exec)  # noqa: B010 its types are many
    setattr(subprocess, "run", run)  # noqa: B010 likewise
    main(["drill", *sys.argv[1:]])
