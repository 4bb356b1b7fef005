"""The excerpt of a match shows the words as they are written, in their context."""

import pytest

from service.postgres.words import folded_in_place, pattern_of, terms_of
from service.queries.matches import AFTER, BEFORE, _excerpt
from service.queries.views import MatchView


def excerpt(query: str, text: str) -> MatchView | None:
    [pattern] = map(pattern_of, terms_of(query))
    found = pattern.search(folded_in_place(text))
    return found and _excerpt("text", text, found.start(), found.end())


@pytest.mark.parametrize(
    ("query", "text", "match"),
    [
        ("Kuendigung", "Ihre Kündigung", "Kündigung"),
        ("kündigung", "Ihre KUENDIGUNG", "KUENDIGUNG"),
        ("kundig", "Ihre Ku\u0308ndigung", "Ku\u0308ndig"),
        ("kundigung", "Kün\u00addi\u00adgung", "Kün\u00addi\u00adgung"),
        ("strasse", "Hauptstr. 5, Straße 6", "Straße"),
        ("V-4711", "V 4711, zu V-4711", "V-4711"),
        ("V-4711", "zu V4711", "V4711"),
        ("4711", "14711 und V4711", "4711"),
        ("DE893704", "DE89 3704 0044", "DE89 3704"),
        ("DE89 3704", "DE89370400", "DE893704"),
        ("1234,56", "zu 1.234,56 EUR", "1.234,56"),
        ("aro", "auf Ærø", "Ærø"),
        ("書", "御発注書です", "書"),
        ("ada@firma", "<ada@firma.example>", "ada@firma"),
        ("ung", "Kündigung", None),
        ("ku", "Kuendigung", "Ku"),
        ("pssst", "Ps-st!", "Ps-st"),
        ("s" * 50 + "x", f"s{'-' * 500}, {'s' * 40}, {'ß' * 30}", None),
        ("(.*", "(.*", None),
    ],
)
def test_a_match_is_shown_as_it_is_written(query: str, text: str, match: str | None) -> None:
    if not terms_of(query):
        assert match is None
        return
    found = excerpt(query, text)

    assert (found and found.match) == match


def test_the_context_is_cut_between_words_and_has_one_line() -> None:
    text = f"{'davor ' * 20}\n\n  Rechnung\t\t{'danach ' * 30}"
    found = excerpt("rechnung", text)

    assert found is not None
    assert found.before == f"…{'davor ' * 5}"[: BEFORE + 1] or found.before.startswith("…davor ")
    assert found.before.endswith("davor ")
    assert found.after.startswith(" danach danach ")
    assert found.after.endswith("danach…")
    assert len(found.before) <= BEFORE + 1
    assert len(found.after) <= AFTER + 1


def test_a_short_text_is_shown_whole() -> None:
    found = excerpt("rechnung", "  Die Rechnung, bitte  ")

    assert found is not None
    assert (found.before, found.match, found.after) == ("Die ", "Rechnung", ", bitte")
