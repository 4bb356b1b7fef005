"""The operating system's limit of open files and sockets."""

import resource
from contextlib import suppress

# No process of ours needs more, and some libraries iterate over all descriptors up to the limit.
MOST_FILES = 65_536


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; return the new limit.

    Many systems start processes with a soft limit of 1024, for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a sandbox may forbid raising it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return file_limit()


def file_limit() -> int:
    """Return the number of files that this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, MOST_FILES)
