"""Say in our words what a disk or a vendor complains of."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError

from service.errors import Permanent, Transient
from service.storage.port import Storage

# What becomes of a panic of the client, beside a line of its own on stderr; one of them is no Exception.
_PANICS = {"RustPanic", "PanicException"}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, or a limit on it


@contextmanager
def translated(storage: Storage | None = None, key: str | None = None) -> Iterator[None]:
    """Raise Permanent("object_missing"), Transient("storage_full") or Transient("storage_unavailable")."""
    try:
        yield
    except (BaseError, OSError, ValueError) as exc:
        if key and isinstance(exc, FileNotFoundError):
            raise Permanent("object_missing", f"the object {key} is not in storage") from None
        # Vendors tell whole stories, with addresses that may be signed, or hold a password: none of it, no query string,
        # no XML but its code.
        line = re.sub(r"(?<=//)\S*@|\?\S*|\s*<.*", "", str(exc).partition("\n")[0])[:500]
        reason = re.search(r"<Code>(\w+)</Code>", str(exc))
        line = f"{reason[1]}: {line}" if reason else line
        code = "storage_unavailable"
        if isinstance(exc, OSError) and exc.errno in _FULL:
            code = "storage_full"
            if storage and not exc.filename:
                line = f"{line} in {storage.spool_directory()}"
        raise Transient(code, f"storage: {type(exc).__name__}: {line or 'no answer in time'}") from None
    except BaseException as exc:
        if type(exc).__name__ not in _PANICS:
            raise
        cause = "something may be wrong with its variables, or with the URL"
        raise Transient("storage_unavailable", f"storage: the vendor's client broke down; {cause}") from None
