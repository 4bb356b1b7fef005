"""The version and the commit of the Holdfast that runs here."""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).parents[2]
# Heroku sets the first two if its dyno metadata is on, and the third during a build:
# https://devcenter.heroku.com/articles/dyno-metadata
_VARIABLES = ("HEROKU_BUILD_COMMIT", "HEROKU_SLUG_COMMIT", "SOURCE_VERSION")
# The build of a slug, a wheel or an image writes this file.
COMMIT_FILE = Path(__file__).parents[1] / "commit.txt"
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_GIT_SECONDS = 5.0


@lru_cache(maxsize=1)
def version() -> str:
    """Return the version of the project in a checkout, or of the installed package; blocks."""
    project = _ROOT / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text())["project"]["version"])
    return metadata.version("holdfast")


@lru_cache(maxsize=1)
def commit() -> str:
    """Return the first 12 digits of the commit, or "unknown"; blocks."""
    found = (text.strip() for text in _sources())
    return next((text[:12] for text in found if _COMMIT.fullmatch(text)), "unknown")


def full_version() -> str:
    """Join version and commit as SemVer does, 0.2.0+e4759f20abcd; the version alone if the commit is unknown; blocks."""
    return version() if commit() == "unknown" else f"{version()}+{commit()}"


def _sources() -> Iterator[str]:
    yield from (os.environ.get(name, "") for name in _VARIABLES)
    yield _checked_out()
    yield COMMIT_FILE.read_text(errors="replace") if COMMIT_FILE.is_file() else ""


def _checked_out() -> str:
    if not (_ROOT / ".git").exists():  # an installed package may lie in another project's repository
        return ""
    command = ["git", "-C", str(_ROOT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)  # noqa: S603 a fixed command
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
