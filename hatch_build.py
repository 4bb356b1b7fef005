"""Write into a wheel or an archive of the sources which commit it is of."""

import os
import sys
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))
from service.telemetry.version import commit


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file, but for an editable install, which asks git."""
        self._file: str | None = None
        if version != "editable" and commit() != "unknown":
            descriptor, self._file = mkstemp()
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{commit()}\n")
            build_data["force_include"][self._file] = "service/commit.txt"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 as Hatch calls it
        if self._file:
            Path(self._file).unlink()
