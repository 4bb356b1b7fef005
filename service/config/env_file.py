"""Read a file of settings; what is wrong with it is one line."""

import os
import stat
from io import StringIO
from pathlib import Path

from service.errors import SettingsError

_MOST_BYTES = 1024**2


def read_env_file(path: Path) -> dict[str, str]:
    """Read lines of NAME=value; nothing where there is no such file.

    Raises SettingsError, whose one line says what to do and never shows a value.
    """
    from dotenv.parser import parse_stream  # noqa: PLC0415 most commands have their settings elsewhere

    bindings = list(parse_stream(StringIO(_text_of(path))))
    for binding in bindings:
        if binding.error:
            raise _broken(path, f"line {binding.original.line} is not NAME=value")
    return {each.key: each.value for each in bindings if each.key and each.value is not None}


def _text_of(path: Path) -> str:
    try:
        # Not to wait for a writer, should it be a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise _broken(path, f"cannot be read ({exc.strerror})") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _broken(path, "is not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(_MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MOST_BYTES or b"\0" in content:
        raise _broken(path, "is not a file of settings")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _broken(path, "is not text in UTF-8") from None


def _broken(path: Path, what: str) -> SettingsError:
    return SettingsError(f"{path}: {what}: correct it, or remove it; `holdfast up` makes a new one")
