"""Files that a user named: whole or not at all, and nothing but a file is replaced."""

import os
from pathlib import Path

import click
import pytest

from service.cli.writing import opened_output


def write(path: Path) -> None:
    with opened_output(path) as file:
        file.write(b"new")


@pytest.mark.parametrize("is_linked", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str, *, is_linked: bool) -> None:
    """A device is no file either: its name would be lost for all programs."""
    there = named = tmp_path / "there"
    os.mkfifo(there) if kind == "pipe" else there.mkdir()
    if is_linked:
        named = tmp_path / "link"
        named.symlink_to(there)
    before = named.lstat()

    with pytest.raises(click.ClickException, match=f"{named.name} exists and is "):
        write(named)

    assert named.lstat() == before
    assert sorted(tmp_path.iterdir()) == sorted({there, named})


@pytest.mark.parametrize("kind", ["nothing", "file", "link", "link to nothing"])
def test_a_file_or_a_link_is_replaced_and_the_target_of_the_link_stays(tmp_path: Path, kind: str) -> None:
    named, target = tmp_path / "named", tmp_path / "target"
    if kind in {"file", "link"}:
        (named if kind == "file" else target).write_bytes(b"old")
    if kind.startswith("link"):
        named.symlink_to(target)

    write(named)

    assert (named.read_bytes(), named.is_symlink()) == (b"new", False)
    assert target.exists() == (kind == "link")
    if kind == "link":
        assert target.read_bytes() == b"old"
