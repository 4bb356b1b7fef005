"""Numbers, durations and strangers' text, as pages, commands and alerts show them."""

from datetime import timedelta

import pytest

from service.formatting import counted, duration, number, one_line, printable, printable_lines, safe_file_name


def test_capped_numbers_have_a_plus_sign() -> None:
    assert number(1234) == "1,234"
    assert number(10_000, True) == "10,000+"


def test_nouns_are_plural_but_after_one() -> None:
    assert [counted(count, "file") for count in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert counted(10_000, "e-mail", capped=True) == "10,000+ e-mails"


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (0, "0 s"),
        (0.05, "50 ms"),
        (59, "59 s"),
        (119, "1 min 59 s"),
        (timedelta(minutes=5), "5 min"),
        (7260, "2 h 1 min"),
        (timedelta(hours=25), "1 d 1 h"),
        (86_460, "1 d"),
    ],
)
def test_durations_have_at_most_two_units(time: timedelta | float, text: str) -> None:
    assert duration(time) == text


def test_hidden_characters_are_replaced() -> None:
    assert printable("a\tb\x1b[2J\u202egnp\U000e0041") == "a\ufffdb\ufffd[2J\ufffdgnp\ufffd"
    assert printable_lines("a\r\nb\tc\x1b") == "a\nb\tc\ufffd"
    assert printable("caf\u00e9 \u4f60\u597d \U0001f600") == "caf\u00e9 \u4f60\u597d \U0001f600"


def test_one_line_is_short_and_has_single_spaces() -> None:
    assert one_line(" a\r\nb\u2028c\u202ed  e ") == "a b c\ufffdd e"
    assert one_line("x" * 500, 10) == "xxxxxxxxx…"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\x.exe", "C:_x.exe"),
        ("a\r\nSet-Cookie: b", "a__Set-Cookie: b"),
        ("\u202egpj.exe", "_gpj.exe"),
        (" .. ", "attachment-0"),
        (None, "attachment-0"),
        ("x" * 200 + ".pdf", "x" * 146 + ".pdf"),
    ],
)
def test_file_names_are_no_paths_and_hide_nothing(name: str | None, safe: str) -> None:
    assert safe_file_name(name, otherwise="attachment-0") == safe
