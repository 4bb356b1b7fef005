"""Read a body as JSON, as leniently as is unambiguous: a file that is not found now may expire."""

import json
import math
import re
from contextlib import suppress
from urllib.parse import parse_qsl

from service.errors import HoldfastError
from service.zendesk.names import name_of

MOST_DEPTH = 100

_STRAY_BYTES = {  # bytes that are not UTF-8, as lone surrogates, and their characters in windows-1252
    0xDC00 + byte: chr(byte) if byte in b"\x81\x8d\x8f\x90\x9d" else bytes([byte]).decode("windows-1252")
    for byte in range(0x80, 0x100)
}
_UNCLEAN = re.compile("[\x00\ud800-\udfff]")  # characters that a text column of Postgres refuses
_FORM = "application/x-www-form-urlencoded"
# The output of a form encoder. A form with other characters was written as text, and a "&" in a subject or in
# an address may begin a field.
_ENCODED_FORM = re.compile(rb"\s*(?:[A-Za-z0-9*._~+!'()=&\[\]-]|%[0-9A-Fa-f]{2})+\s*")
_MOST_FIELDS = 1_000


class Unreadable(HoldfastError):
    """The body cannot be read; codes are `not_json`, `wrong_shape`, `no_ticket` and `duplicate_key`.

    `key` is the one that occurs twice in an object.
    """

    key: str | None = None


def read_body(body: bytes, content_type: str) -> object:
    """Return a webhook's value if its body is JSON or a form, under any media type.

    Raises Unreadable and nothing else, for any bytes.
    """
    try:
        return read_json(body)
    except Unreadable as exc:
        if exc.code != "not_json" or content_type.strip().lower() != _FORM:
            raise
    return _read_form(body)


def read_json(body: bytes | str, *, most_depth: int = MOST_DEPTH) -> object:
    """Return the value; raises Unreadable and nothing else, for any bytes."""
    try:
        text = body if isinstance(body, str) else decoded(body)
        data = _JSON.decode(text)
        if text.count("[") + text.count("{") > most_depth:
            _refuse_depth(data, most_depth)
    except RecursionError:
        raise Unreadable("wrong_shape", "The JSON is nested too deeply.") from None
    except ValueError as exc:
        raise Unreadable("not_json", f"The body is not JSON: {exc}.") from exc
    return data


def text_of(value: object) -> str | None:
    """Return a text or a number as a text that Postgres accepts; None for an empty or any other value."""
    if isinstance(value, str):  # the most common case
        return clean(value).strip() or None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # 123.0 is ticket 123
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return str(value)


def clean(text: str) -> str:
    """Replace the characters that a text column of Postgres refuses."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNCLEAN.sub("\ufffd", text)


def is_clean(text: str) -> bool:
    return _UNCLEAN.search(text) is None


def is_blank(value: object) -> bool:
    """Say whether a value holds nothing: null, an empty list or object, or a text of white space."""
    return not value.strip() if isinstance(value, str) else value in (None, [], {})


def embedded_json(
    text: str, most_depth: int, *, refuse_duplicates: bool = False
) -> dict[str, object] | list[object] | None:
    """Read a text that is itself a JSON list or object; None for any other text.

    With `refuse_duplicates`, raises Unreadable("duplicate_key") if a key occurs twice.
    """
    if text.lstrip()[:1] not in {"[", "{"}:
        return None
    try:
        value = read_json(text, most_depth=most_depth)
    except Unreadable as exc:
        if refuse_duplicates and exc.code == "duplicate_key":
            raise
        return None
    return value if isinstance(value, dict | list) else None


def _read_form(body: bytes) -> object:
    """Read a form: a field that contains JSON is the body, otherwise its fields are the keys."""
    if not _ENCODED_FORM.fullmatch(body):
        raise Unreadable("not_json", "The body is neither JSON nor an encoded form.")
    try:
        fields = parse_qsl(
            body.decode("ascii").strip(),
            keep_blank_values=True,
            strict_parsing=True,
            errors="surrogateescape",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError as exc:
        raise Unreadable("not_json", f"The body is neither JSON nor a form: {exc}.") from exc
    pairs = [(key.translate(_STRAY_BYTES), value.translate(_STRAY_BYTES)) for key, value in fields]
    named = [index for index, (key, _) in enumerate(pairs) if key.strip().lower() == "payload"]
    if len({pairs[index][1] for index in named}) > 1:
        raise Unreadable("duplicate_key", "The form has several different fields `payload`.")
    key, value = pairs.pop(named[0] if named else 0)
    written = value or key
    if written.lstrip().startswith("{"):
        data = read_json(written)
        inner = list(data.items()) if isinstance(data, dict) else []
        return _make_object([*inner, *pairs])
    fields_alone = _make_object([(key, value), *pairs])
    if not any(name_of(key).is_ticket_id for key in fields_alone):
        raise Unreadable("not_json", "The body is a form, but no field is JSON or the ticket's id.")
    return fields_alone


def _make_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object of its members; refuse a duplicate key, because a sender's quotation mark can produce one."""
    made = dict(pairs)
    return made if len(made) == len(pairs) else _merge(pairs)


def _merge(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, list[object]] = {}
    for key, value in pairs:
        kept = values.setdefault(key, [])
        if not kept or not _is_same(kept[0], value):
            kept.append(value)
    return {key: kept[0] if len(kept) == 1 else _join(key, kept) for key, kept in values.items()}


def _join(key: str, values: list[object]) -> list[object]:
    """Join lists of files under one key; any other duplicate key is ambiguous."""
    if not name_of(key).is_files or not all(isinstance(value, _LIST_LIKE) for value in values):
        error = Unreadable("duplicate_key", f"The key {key[:100]!r} occurs twice, with different values.")
        error.key = key
        raise error
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _is_same(one: object, other: object) -> bool:
    if type(one) is not type(other) or one != other:
        return False
    return not isinstance(one, list | dict) or json.dumps(one) == json.dumps(other)  # [1] == [true]


def decoded(body: bytes) -> str:
    """Return a body as text, also where it is not UTF-8."""
    encoding = json.detect_encoding(body)  # by its byte order mark, or by the positions of zero bytes
    with suppress(UnicodeDecodeError):
        return body.decode(encoding)
    if not encoding.startswith("utf-8"):
        return body.decode(encoding, "replace")
    return body.decode(encoding, "surrogateescape").translate(_STRAY_BYTES)


def _read_float(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits  # 1e400: JSON has no infinity


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _refuse_depth(data: object, most_depth: int) -> None:
    """Enforce one limit for all Python versions, low enough for a JSON encoder at any stack depth."""
    level = [data]
    for _ in range(most_depth):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    if level:
        raise RecursionError


_LIST_LIKE = (list, dict, str, type(None))
_JSON = json.JSONDecoder(
    strict=False, object_pairs_hook=_make_object, parse_float=_read_float, parse_constant=_refuse_constant
)
