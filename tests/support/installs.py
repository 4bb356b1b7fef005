"""Fresh environments as Heroku's buildpack or pip make them. Packages are links to the installed ones, so that no network is needed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

# The buildpack's scripts set these when a dyno starts; 2 is its value for 512 MB.
# https://github.com/heroku/heroku-buildpack-python
PROFILE = """
export PATH="$HOME/.heroku/python/bin:$PATH"
export PYTHONUNBUFFERED=true
export PYTHONPATH="$HOME"
export WEB_CONCURRENCY="${WEB_CONCURRENCY:-2}"
"""
START = 'for file in .profile.d/*.sh; do . "$file"; done; if [ -f .profile ]; then . ./.profile; fi; exec '
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LEFT_OUT = (
    ".git",
    ".venv*",
    ".holdfast",
    ".*_cache",
    ".hypothesis",
    "tests",
    "docs",
    "benchmarks",
)


def previous_commit() -> str:
    """Return the commit of the previous version, from its tag or pyproject.toml; skip the test without one."""
    recorded = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["holdfast"]["previous"]
    tag = git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^").stdout.decode().strip()
    for name in filter(None, (tag, recorded)):
        if git("cat-file", "-e", f"{name}^{{commit}}").returncode == 0:
            return str(name)
    pytest.skip("the version before is not here: this is no clone with its history")


def git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, timeout=60, check=False)


def check_out(commit: str, directory: Path) -> Path:
    """Put the files of a commit into a directory."""
    directory.mkdir()
    subprocess.run(["tar", "-x", "-C", str(directory)], input=git("archive", commit).stdout, check=True)
    return directory


def copy(directory: Path) -> Path:
    """Put the files as they are now into a directory."""
    shutil.copytree(ROOT, directory, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    return directory


def build(slug: Path, python: Path) -> None:
    """Finish a build: write the buildpack's files, and call its hook."""
    (slug / ".heroku").mkdir()
    (slug / ".heroku" / "python").symlink_to(python)
    (slug / ".profile.d").mkdir()
    (slug / ".profile.d" / "python.sh").write_text(PROFILE)
    if (slug / "bin" / "post_compile").exists():
        subprocess.run(
            ["bin/post_compile"], cwd=slug, env={**os.environ, "SOURCE_VERSION": COMMIT}, check=True
        )


def procfile(slug: Path, kind: str) -> str:
    """Return the command of a process type, as written."""
    found = re.search(rf"^{kind}: (.+)$", (slug / "Procfile").read_text(), flags=re.MULTILINE)
    assert found
    return found[1]


def install(directory: Path) -> Path:
    """Make an environment with the packages of requirements.txt only."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(directory)
    [packages] = directory.glob("lib/python*/site-packages")
    for requirement in requirements():
        distribution = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), requirement
        for file in distribution.files or ():
            if file.parts[0] == ".." and file.parts[-2] == "bin":
                link_script(Path(str(distribution.locate_file(file))), directory / "bin")
            elif file.parts[0] not in {"..", "__pycache__"}:
                link(Path(str(distribution.locate_file(file.parts[0]))), packages)
    return directory


def requirements() -> Iterator[Requirement]:
    for line in re.findall(
        r"^[A-Za-z0-9][^\\]*", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE
    ):
        requirement = Requirement(line.strip())
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def link(original: Path, directory: Path) -> None:
    place = directory / original.name
    if not place.exists():
        place.symlink_to(original)


def link_script(original: Path, directory: Path) -> None:
    """Copy a command, with the Python of its new environment."""
    _, _, rest = original.read_text().partition("\n")
    place = directory / original.name
    place.write_text(f"#!{directory / 'python'}\n{rest}")
    place.chmod(0o755)


def version_of(slug: Path) -> str:
    return str(tomllib.loads((slug / "pyproject.toml").read_text())["project"]["version"])


def install_wheel(directory: Path, python: Path) -> Path:
    """Build a wheel of the files as they are now, and an archive; install the wheel there; return the archive."""
    built = [sys.executable, "-m", "hatchling", "build", "-d", str(directory)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True, timeout=100)
    [wheel], [archive] = directory.glob("*.whl"), directory.glob("*.tar.gz")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python / "bin" / "python"),
        "install",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, "--no-compile", str(wheel)], check=True, capture_output=True, timeout=100)
    return archive
