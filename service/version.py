"""Which version of Holdfast runs here."""

import tomllib
from functools import lru_cache
from importlib import metadata
from pathlib import Path


@lru_cache(maxsize=1)
def version() -> str:
    """Read it from the installed package, or in a checkout that is not installed, from its project; blocks."""
    try:
        return metadata.version("holdfast")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text())["project"]["version"])
