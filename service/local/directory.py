"""The data directory: private to its owner, and refused where another user could change its contents."""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from service.local.launch import ServerError


def own_directory(path: Path) -> Path:
    """Make the directory if it is missing, private to its owner; return it with all links resolved.

    Raises ServerError if another user could change or replace it. Modes of existing directories stay as they are.
    """
    for problem in _link_problems(path.absolute()):
        raise ServerError(problem)
    # Before Python 3.13, Path.resolve() fails on links in a circle; `_check` reports these in one line.
    directory = Path(os.path.realpath(path))
    _check(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # parents get the default mode
    except OSError as exc:
        raise ServerError(f"cannot use {directory}: {exc.strerror}") from exc
    _check(directory)  # again, because another user may have made it meanwhile
    return directory


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run under a uid without a name
        return f"user {uid}"


def _link_problems(path: Path) -> Iterator[str]:
    """Report links of other users on the path: their owners could change them at any time."""
    for part in (*reversed(path.parents), path):
        if part.is_symlink() and (uid := part.lstat().st_uid) not in _trusted_uids():
            yield f"{part} is a link that belongs to {user_name(uid)}: choose another --data-dir"


def _check(directory: Path) -> None:
    for part in (directory, *directory.parents):
        try:
            status = part.stat()
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise ServerError(f"cannot use {directory}: {exc.strerror}") from exc
        if status.st_uid not in _trusted_uids():
            raise ServerError(
                f"{part} belongs to {user_name(status.st_uid)}, who could change its contents:"
                " choose a --data-dir below one of your own directories"
            )
        # In a directory with the sticky bit, such as /tmp, users can rename only their own files.
        is_safe_parent = part != directory and status.st_mode & stat.S_ISVTX
        if _is_writable_by_others(status) and not is_safe_parent:
            raise ServerError(
                f"other users may write to {part}: run `chmod go-w {part}`, or choose another --data-dir"
            )


def _trusted_uids() -> set[int]:
    """Return this user and root; in a user namespace, root has another uid."""
    return {0, os.geteuid(), Path("/").stat().st_uid}


def _is_writable_by_others(status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_private(status.st_gid)


def _is_private(gid: int) -> bool:
    """Say whether this user is the group's only member; on many systems each user has such a group."""
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
