"""JSON for programs is what the standard library writes, but for spaces."""

import json
from pathlib import PurePath

import pytest

from service.json_text import json_text


@pytest.mark.parametrize(
    "value",
    [
        {"text": 'a "b"\n\0', "number": 2**70, "list": [None, True, 1.5, []], "object": {}},
        [["X-Name", "é\u2028😀"]],
        ["of bytes that are no UTF-8: \udcff"],
        (5, 1),
        1e300,
    ],
)
def test_what_is_written_is_read_back(value: object) -> None:
    text = json_text(value)

    assert text.isascii()
    assert json.loads(text) == json.loads(json.dumps(value))
    assert "\n" not in text


def test_many_levels_are_written() -> None:
    value: list[object] = []
    for _ in range(500):
        value = [value]

    assert json.loads(json_text(value)) == value


@pytest.mark.parametrize("name", ["a", "é", "\udcff"])
def test_a_value_without_a_form_in_json_is_written_as_the_caller_says_or_refused(name: str) -> None:
    value = {name: PurePath}

    assert json.loads(json_text(value, repr)) == {name: repr(PurePath)}
    with pytest.raises(TypeError):
        json_text(value)
