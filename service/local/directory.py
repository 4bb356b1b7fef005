"""The data directory: made for its owner alone, and refused where somebody else could change what is in it."""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from service.local.launch import ServerError


def own_directory(path: Path) -> Path:
    """Return the directory with all links resolved; make it if need be, for its owner alone.

    Raises ServerError where somebody else could change it, or put another directory in its place. The modes of
    directories that were there before stay as they are.
    """
    for complaint in _wrong_links(path.absolute()):
        raise ServerError(complaint)
    # Until Python 3.13, Path.resolve() breaks on links in a circle; a look at them says below what is wrong.
    directory = Path(os.path.realpath(path))
    _check(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # the parents get the usual mode
    except OSError as exc:
        raise ServerError(f"cannot use {directory}: {exc.strerror}") from exc
    _check(directory)  # once more, as somebody may have been faster
    return directory


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run under a number that has no name
        return f"user {uid}"


def _wrong_links(path: Path) -> Iterator[str]:
    """Name the links on the way that other users made: they could lead elsewhere at any time."""
    for step in (*reversed(path.parents), path):
        if step.is_symlink() and (uid := step.lstat().st_uid) not in _trusted():
            yield f"{step} is a link that belongs to {user_name(uid)}: choose another --data-dir"


def _check(directory: Path) -> None:
    for place in (directory, *directory.parents):
        try:
            about = place.stat()
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise ServerError(f"cannot use {directory}: {exc.strerror}") from exc
        if about.st_uid not in _trusted():
            raise ServerError(
                f"{place} belongs to {user_name(about.st_uid)}, who could change what is kept there:"
                " choose a --data-dir below a directory of your own"
            )
        # Where the sticky bit is set, as in /tmp, nobody can rename what belongs to others.
        is_safe_parent = place != directory and about.st_mode & stat.S_ISVTX
        if _is_writable_by_others(about) and not is_safe_parent:
            raise ServerError(
                f"other users may change what is in {place}: run `chmod go-w {place}`, or choose another --data-dir"
            )


def _trusted() -> set[int]:
    """List the users who could do anything anyway; in a user namespace root has another number."""
    return {0, os.geteuid(), Path("/").stat().st_uid}


def _is_writable_by_others(about: os.stat_result) -> bool:
    if about.st_mode & stat.S_IWOTH:
        return True
    return bool(about.st_mode & stat.S_IWGRP) and not _is_private(about.st_gid)


def _is_private(gid: int) -> bool:
    """Say whether nobody else is in the group: many systems give each user one, which may write by default."""
    if gid == 0:
        return True
    if gid != os.getegid():
        return False
    try:
        group = grp.getgrgid(gid)
    except KeyError:  # no name, no members
        return True
    me = user_name(os.geteuid())
    return group.gr_name == me and not set(group.gr_mem) - {me}
