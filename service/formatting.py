"""Numbers, durations, and text from strangers, written for people."""

import re
from datetime import timedelta

# Control characters, invisible ones, and those that change the direction of writing: `gpj.exe` must not look like
# `exe.jpg`. Lone surrogates have no UTF-8.
_HIDDEN = (
    r"\x7f-\x9f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e007f"
)
# What no honest text has: control characters, the two overrides of the direction, and lone surrogates.
_UNWRITTEN = r"\x7f-\x9f\u202d\u202e\ud800-\udfff"
_UNPRINTABLE = re.compile(rf"[\x00-\x1f{_HIDDEN}]")
_UNPRINTABLE_IN_LINES = re.compile(rf"[\x00-\x08\x0b-\x1f{_HIDDEN}]")
_UNREADABLE = re.compile(rf"[\x00-\x08\x0b-\x1f{_UNWRITTEN}]")

_LONGEST_FILE_NAME = 150
_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


def number(count: int, capped: bool = False) -> str:  # noqa: FBT001, FBT002 templates pass it by position
    """Write a count, with a plus sign where counting stopped at a cap."""
    return f"{count:,}{'+' if capped else ''}"


def counted(count: int, noun: str, *, capped: bool = False) -> str:
    """Write a count and its noun, whose plural ends in `s`."""
    return f"{number(count, capped)} {noun}{'' if count == 1 else 's'}"


def duration(time: timedelta | float) -> str:
    """Write a duration, or a number of seconds, in its one or two largest units."""
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    for unit, length, smaller, part in _UNITS:
        if seconds >= length:
            rest = int(seconds % length // part)
            return f"{int(seconds // length)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds * 1000:.0f} ms" if 0 < seconds < 1 else f"{seconds:.0f} s"


def printable(text: str, instead: str = "\ufffd") -> str:
    """Replace each character that is invisible or steers a terminal, line breaks among them."""
    return _UNPRINTABLE.sub(instead, text)


def printable_lines(text: str) -> str:
    """Replace the same characters but line breaks and tabs."""
    return _UNPRINTABLE_IN_LINES.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str, longest: int | None = None) -> str:
    """Make one line of printable characters, cut to `longest` of them."""
    line = printable(" ".join(text.split()))
    return line if longest is None or len(line) <= longest else f"{line[: longest - 1]}…"


def readable_lines(text: str) -> str:
    """Keep a person's text as written: joiners, marks of direction and emoji too, which `printable` replaces.

    Isolate it where it is shown: its direction of writing must not go on behind it.
    """
    return _UNREADABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def readable_line(text: str) -> str:
    """Make one line of a person's text, and keep it as written, as `readable_lines` does."""
    return readable_lines(" ".join(text.split()))


def safe_file_name(name: str | None, *, otherwise: str) -> str:
    """Make a file name of a stranger's: it is no path, hides no character, and has at most 150 of them."""
    kept = printable(name or "", "_").replace("/", "_").replace("\\", "_")[-_LONGEST_FILE_NAME:]
    return kept.strip(". ") or otherwise
