"""Words: every spelling of a word, a name or a code meets every other."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.postgres.words import (
    LONGEST_WORD,
    MOST_BYTES,
    MOST_WORDS,
    block_of,
    block_prefix,
    first_id,
    fold,
    terms_of,
    words_of,
)
from tests.support.words import is_found

SPELLINGS = (
    ("Kündigung", "KUNDIGUNG", "Kuendigung", "Ku\u0308ndigung", "Kündi\u00adgung", "kündigung"),
    ("Straße", "STRASSE", "strasse"),
    ("Müller", "Mueller", "MULLER", "\uff2d\u00fcller"),
    ("Ærø", "Aeroe", "aro"),
    ("Łódź", "LODZ", "lodz"),
    ("İstanbul", "ISTANBUL", "istanbul", "\u0131stanbul"),
    ("ΟΔΟΣ", "οδός", "οδοσ"),
    ("V-4711", "V4711", "v_4711", "V/4711", "V.4711", "V\u20114711", "V\u22124711"),
    ("RE-2026/1003", "RE2026-1003", "re_2026_1003"),
    ("1.234,56", "1,234.56", "1234,56", "1'234.56", "1\u2019234,56"),
    ("٤٧١١", "4711", "\uff14\uff17\uff11\uff11"),
    ("O\u2019Neill", "O'Neill", "ONeill"),
    ("ガス", "ｶﾞｽ", "カ\u3099ス"),
    ("각서", unicodedata.normalize("NFD", "각서")),
)


@pytest.mark.parametrize("spellings", SPELLINGS, ids=lambda spellings: spellings[1])
def test_each_spelling_finds_each_other(spellings: tuple[str, ...]) -> None:
    missed = [
        (query, text) for query in spellings for text in spellings if not is_found(query, f"x {text} y")
    ]

    assert missed == []


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("rechnung offene", "Die offene Rechnung"),
        ("rech", "Rechnungen"),
        ("4711", "Vorgang V-4711"),
        ("4711", "Vorgang V4711"),
        ("RE 2026/1003", "Rechnung RE-2026-1003"),
        ("RE 2026/1003", "Rechnung RE2026/1003"),
        ("1003", "RE 2026/1003"),
        ("2026/1003", "RE-2026-1003"),
        ("ada@firma-nord.de", "Von: <ada@firma-nord.de>"),
        ("@firma-nord.de", "ada.b+rechnung@firma-nord.de"),
        ("firma-nord", "ada@firma-nord.de"),
        ("b+rechnung@", "ada.b+rechnung@firma-nord.de"),
        ("scan_1.pdf", "Scan_1.PDF"),
        ("pdf", "Scan_1.PDF"),
        ("DE89370400440532013000", "IBAN: DE89 3704 0044 0532 0130 00"),
        ("DE89 3704 0044 0532 0130 00", "IBAN DE89370400440532013000."),
        ("DE89 3704", "IBAN DE89370400440532013000."),
        ("2026 4711", "Auftrag 4711 vom 3.5.2026; 1. Mahnung, Jahr 2026"),
        ("発注", "発注書をお送りします"),
        ("注書", "発注書をお送りします"),
        ("発注書", "発注書をお送りします"),
        ("書", "発注書"),
        ("発注書2026", "発注書2026-11"),
        ("แจ้ง", "ใบแจ้งหนี้"),
        ("발주", "긴급발주서"),
        ("नमस्ते", "नमस्ते दुनिया"),
        ("müller hans", "Müller,Hans"),
        ("a.b.c.d.e.f.g.h.i.j.k", "x a.b.c.d.e.f.g.h.i.j.k.l"),
        ("d.e.f.g.h.i.j.k.l", "x a.b.c.d.e.f.g.h.i.j.k.l"),
        ("e-mail", "Ihre Email"),
        ("email", "Ihre E-Mail"),
    ],
)
def test_a_query_finds_a_text(query: str, text: str) -> None:
    assert is_found(query, text)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("V-4711", "V 12 und 4711"),
        ("V-4711", "V-47"),
        ("rechnung mahnung", "Rechnung"),
        ("echnung", "Rechnung"),
        ("発注書", "発注 請求書"),
        ("%", "100 %"),
        ("_", "a_b"),
        ("", "text"),
        ("!?", "!?"),
    ],
)
def test_a_query_does_not_find_another_text(query: str, text: str) -> None:
    assert not is_found(query, text)


@given(st.text(max_size=60), st.text(max_size=20), st.integers(0, 60))
def test_the_beginning_of_any_text_finds_it(text: str, before: str, length: int) -> None:
    beginning = text[:length]

    assert is_found(beginning, f"{before} {text}") or not terms_of(beginning)


@given(st.text())
def test_words_have_letters_and_digits_only(text: str) -> None:
    for word in words_of([text]):
        assert all(unicodedata.category(each)[0] in "LNM" for each in word), ascii(word)
        assert 0 < len(word) <= LONGEST_WORD
        assert "\0" not in word


def test_words_of_an_email_are_bounded_and_the_first_texts_come_first() -> None:
    many = " ".join(f"{number:x}" for number in range(3 * MOST_WORDS))
    long = " ".join(str(number) * 30 for number in range(10_000, 10_000 + MOST_WORDS))

    assert len(words_of(["ticket", many])) == MOST_WORDS
    assert words_of(["ticket", many])[0] == "ticket"
    words = words_of(["ticket", long])
    assert MOST_BYTES - 1_000 < sum(len(word) + len(block_prefix(0)) for word in words) <= MOST_BYTES


def test_a_block_has_neighbouring_ids_and_a_prefix_of_its_own() -> None:
    ids = [1, 16_383, 16_384, 5_000_000, 2**34 - 1, 2**34, 2**62]

    blocks = [block_of(number) for number in ids]

    assert blocks == [0, 0, 1, 305, 0xFFFFF, 0xFFFFF, 0xFFFFF]
    assert {len(block_prefix(block)) for block in blocks} == {5}
    assert first_id(305) <= 5_000_000 < first_id(306)


def test_invisible_and_lone_characters_are_no_words() -> None:
    assert fold("a\u200bb\ufe0f \ud800 \0 \U0010fffe").split() == ["ab"]
