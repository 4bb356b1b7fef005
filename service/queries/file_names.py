"""File names that every system accepts, and that are different on every one."""

import re
import unicodedata
from collections.abc import Iterable

from service.formatting import safe_file_name

MOST_BYTES = 200  # file systems accept 255, and a path of Windows 260 characters
MOST_EXTENSION = 20  # characters; a longer one is part of the name

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_REFUSED = re.compile(r'[<>:"|?*]')
_DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?", re.IGNORECASE
)


def distinct_names(names: Iterable[tuple[str | None, str]]) -> list[str]:
    """Make a safe file name of each name, in order; the second one of a pair replaces a name that has nothing left.

    Names that differ only in case or in the composition of characters count as equal: some systems take them for one.
    """
    taken: dict[str, int] = {}
    return [_distinct(_safe(name, otherwise), taken) for name, otherwise in names]


def _safe(name: str | None, otherwise: str) -> str:
    normal = unicodedata.normalize("NFC", name or "")
    kept = _REFUSED.sub("_", safe_file_name(normal, otherwise=otherwise))
    return f"_{kept}" if _DEVICES.fullmatch(kept) else kept


def _distinct(name: str, taken: dict[str, int]) -> str:
    """Return the name, or else with the first free number; `taken` has the last number of each."""
    stem, extension = _split(name)
    candidate = _fitting(stem, extension)
    first = _same(candidate)
    while _same(candidate) in taken:
        taken[first] += 1
        candidate = _fitting(stem, f" ({taken[first]}){extension}")
    taken[_same(candidate)] = 1
    return candidate


def _split(name: str) -> tuple[str, str]:
    stem, dot, extension = name.rpartition(".")
    return (stem, f".{extension}") if stem and dot and len(extension) <= MOST_EXTENSION else (name, "")


def _fitting(stem: str, end: str) -> str:
    """Cut the stem, so that the name has at most MOST_BYTES, in whole characters."""
    kept = stem.encode()[: MOST_BYTES - len(end.encode())].decode(errors="ignore")
    return (kept if kept == stem else kept.rstrip(". ")) + end


def _same(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
