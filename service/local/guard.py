"""Send a process a signal when its parent dies, even by SIGKILL.

Only Linux supports this (PR_SET_PDEATHSIG); elsewhere the command just runs. This file runs as a script that
execs the command; unlike `preexec_fn`, this is safe with threads and asyncio. As root, it can also change to
another user who keeps root's access to files, so that no file must become readable to everybody.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from signal import Signals

_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAPBSET_READ, _PR_CAP_AMBIENT = 1, 8, 23, 47  # linux/prctl.h
_PR_CAP_AMBIENT_IS_SET, _PR_CAP_AMBIENT_RAISE = 1, 2
_CAP_DAC_OVERRIDE = 1  # linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522
# Resolved at import, because resolving reads the disk and would block an event loop later.
_SCRIPT = str(Path(__file__).resolve())


def guarded(command: Sequence[str], signal: Signals, *, owner: tuple[int, int] | None = None) -> list[str]:
    """Return a command line that runs `command` and sends it `signal` when this process dies.

    `owner` is the (uid, gid) to change to; only root can. The kernel watches the *thread* that starts the command,
    so start it from the main thread. Raises RuntimeError in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("start the command from the main thread: it would end together with this thread")
    uid, gid = owner or (-1, -1)
    arguments = map(str, (int(signal), os.getpid(), uid, gid))
    return [sys.executable, "-I", "-S", _SCRIPT, *arguments, *command]


def keeps_access() -> bool:
    """Say whether a command that changes from root to another user can keep root's access to files."""
    return (
        _prctl(_PR_CAPBSET_READ, _CAP_DAC_OVERRIDE) == 1
        and _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_IS_SET, _CAP_DAC_OVERRIDE) >= 0
    )


def main() -> None:
    """Ask for the signal, change the user if requested, and exec the command."""
    signal, parent, uid, gid = map(int, sys.argv[1:5])
    if uid >= 0:
        _change_user(uid, gid)
    _prctl(_PR_SET_PDEATHSIG, signal)  # last, because a change of user clears it
    if os.getppid() != parent:
        sys.exit(1)  # the parent died before this request
    os.execvp(sys.argv[5], sys.argv[5:])  # noqa: S606 no shell is intended


def _change_user(uid: int, gid: int) -> None:
    access = keeps_access()
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if access:
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        one = 1 << _CAP_DAC_OVERRIDE
        ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)(one, one, one, 0, 0, 0))
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE)


def _prctl(*arguments: int) -> int:
    if sys.platform != "linux":
        return -1
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:5]]
    return int(ctypes.CDLL(None).prctl(*padded))


if __name__ == "__main__":
    main()
