"""What the operating system allows this process: how many files and sockets it may have open."""

import resource
from contextlib import suppress

# More than this no process of ours needs, and some libraries walk through all numbers up to the limit.
MOST_FILES = 65_536


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; return what it is then.

    Many systems start processes with a soft limit of 1024, for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a sandbox may forbid it, and then the old limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return file_limit()


def file_limit() -> int:
    """Return how many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, MOST_FILES)
