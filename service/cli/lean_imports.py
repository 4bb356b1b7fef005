"""Imports of the doors, without what costs memory and time there: a process needs 13 MB and 0.1 s less.

redis imports PyJWT, for a login that Holdfast does not offer, and PyJWT imports cryptography if it can. structlog does the
same with rich. These packages are hidden while `holdfast web` and `worker` load; later imports find them.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

HIDDEN = ("cryptography", "rich")


@contextmanager
def lean_imports() -> Iterator[None]:
    """Hide optional packages from the libraries that are imported during the block, and collect no garbage."""
    hidden = [name for name in HIDDEN if name not in sys.modules]
    # Python takes None for a module that cannot be found.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # loading modules makes no garbage: no collection looks at them
        gc.enable()
        for name in hidden:
            del sys.modules[name]
