"""Read a body as JSON, as leniently as is unambiguous: what is not read now may have expired later."""

import json
import math
from contextlib import suppress

from service.errors import HoldfastError

_STRAY_BYTES = {  # bytes that are not UTF-8, as the lone surrogates that stand for them, read as windows-1252
    0xDC00 + byte: chr(byte) if byte in b"\x81\x8d\x8f\x90\x9d" else bytes([byte]).decode("windows-1252")
    for byte in range(0x80, 0x100)
}
_MOST_DEPTH = 100


class Unreadable(HoldfastError):
    """The body cannot be read; codes are `not_json`, `wrong_shape` and `no_ticket`."""


def read_json(body: bytes | str) -> object:
    """Return the value; raises Unreadable and nothing else, whatever the bytes."""
    try:
        text = body if isinstance(body, str) else _decode(body)
        data = _JSON.decode(text)
        if text.count("[") + text.count("{") > _MOST_DEPTH:
            _refuse_depth(data)
    except RecursionError:
        raise Unreadable("wrong_shape", "The JSON is nested too deep.") from None
    except ValueError as exc:
        raise Unreadable("not_json", f"The body is not JSON: {exc}.") from exc
    return data


def _decode(body: bytes) -> str:
    encoding = json.detect_encoding(body)  # by its byte order mark, or by where the zeroes are
    with suppress(UnicodeDecodeError):
        return body.decode(encoding)
    if not encoding.startswith("utf-8"):
        return body.decode(encoding, "replace")
    return body.decode(encoding, "surrogateescape").translate(_STRAY_BYTES)


def _read_float(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits  # 1e400: JSON has no word for an infinity


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _refuse_depth(data: object) -> None:
    """Hold every Python to one limit, which its JSON writer reaches from anywhere."""
    level = [data]
    for _ in range(_MOST_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    if level:
        raise RecursionError


_JSON = json.JSONDecoder(strict=False, parse_float=_read_float, parse_constant=_refuse_constant)
