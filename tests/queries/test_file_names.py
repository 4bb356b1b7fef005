"""Names of files in an archive are safe on every system, and different on every one."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.queries.file_names import MOST_BYTES, distinct_names

DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")
HOSTILE = st.lists(
    st.one_of(
        st.none(),
        st.text(max_size=400),
        st.sampled_from(
            ["../a", "C:\\a", "CON", "nul.txt", "a\u202egpj.exe", "a.", "é", "e\u0301", "É", "ﬁ.x", "FI.X"]
        ),
        st.text("aA.é /\\\0", max_size=6),
    ),
    max_size=12,
)


def named(*names: str | None) -> list[str]:
    return distinct_names((name, f"attachment-{place}") for place, name in enumerate(names))


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("invoice.pdf", "invoice.pdf"),
        ("Rechnung März 2026.pdf", "Rechnung März 2026.pdf"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\Windows\\evil.exe", "C__Windows_evil.exe"),
        ("a\0b", "a_b"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("LPT¹.log", "_LPT¹.log"),
        ("COM10.log", "COM10.log"),
        ("name. . .", "name"),
        ("what?.txt", "what_.txt"),
        ("invoice\u202efdp.exe", "invoice_fdp.exe"),
        ("..", "attachment-0"),
        ("", "attachment-0"),
        (None, "attachment-0"),
    ],
)
def test_name_is_safe(name: str | None, safe: str) -> None:
    assert named(name) == [safe]


def test_equal_names_get_numbers_before_their_extension() -> None:
    assert named("a.pdf", "A.PDF", "a (2).pdf", "a.pdf", "b", "B", "e\u0301.x", "É.x") == [
        *("a.pdf", "A (2).PDF", "a (2) (2).pdf", "a (3).pdf"),
        *("b", "B (2)", "é.x", "É (2).x"),
    ]


def test_long_names_keep_their_extension_and_stay_different() -> None:
    one, other = named("é" * 500 + ".pdf", "é" * 500 + ".pdf")

    assert one != other
    assert all(name.endswith(".pdf") and len(name.encode()) <= MOST_BYTES for name in (one, other))


@given(HOSTILE)
def test_any_names_are_safe_and_different(names: list[str | None]) -> None:
    found = named(*names)

    assert len({unicodedata.normalize("NFKC", name).casefold() for name in found}) == len(names)
    for name in found:
        assert name.encode()
        assert len(name.encode()) <= MOST_BYTES
        assert not re.search(r'[<>:"/\\|?*\x00-\x1f\x7f\u202a-\u202e\u200b-\u200f]', name)
        assert name.strip(". ") == name
        assert not DEVICES.fullmatch(name)
