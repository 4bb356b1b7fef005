"""Words: what an e-mail is found by. Texts and queries are folded and cut in the same way.

All spellings of a word meet in one: case, accents and umlauts do not matter (Kündigung, KUNDIGUNG, Kuendigung). A code is
found with and without its signs: V-4711 has the words v4711 and 4711. Each word of a query matches as a prefix.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Text, cast, func, literal, literal_column
from sqlalchemy.dialects.postgresql import TSQUERY

# A tsvector holds 1 MB: https://www.postgresql.org/docs/18/textsearch-limitations.html
MOST_WORDS = 20_000
MOST_BYTES = 900_000  # of an e-mail's words, with the prefixes of their block
LONGEST_WORD = 100  # characters
# E-mails with neighbouring ids form a block, whose number begins each of their words in the index. So a search reads the
# index of the newest block first, and a frequent word costs no more there than a block has e-mails.
BLOCK_BITS = 14
MOST_BLOCK = 0xFFFFF  # five hexadecimal digits; ids beyond share the last block
# The parts of a code that one word joins. A longer code has several such words.
_JOINED_PARTS = 8

# The signs in codes, and those that become one of them. After a tab, another column of a table begins.
_SIGNS = {each: each for each in "-/._@'+&,\n\r"} | {
    "\\": "/",
    "\u2044": "/",
    "\u2212": "-",
    "\t": "\n",
    **dict.fromkeys("\u2018\u2019\u2032", "'"),
}
# Dashes; and characters that nobody sees: soft hyphens, joiners, those for the direction of writing.
_SIGNS_OF_KIND = {"Pd": "-", "Cf": ""}
_LETTERS = {
    "æ": "ae",
    "œ": "oe",
    "ø": "o",
    "ł": "l",
    "đ": "d",
    "ð": "d",
    "þ": "th",
    "ħ": "h",
    "ŧ": "t",
    "\u0131": "i",
}
_IN_GROUPS = 6  # a number of so many digits may be written in groups
_LEFT_OUT = "\u00ad"
_KANA_MARKS = "\u3099\u309a"  # part of the letter, not an accent
# Scripts without spaces between words, and Hangul, whose compounds have none.
_DENSE = (
    r"\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3130-\u318f"
    r"\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
_IS_DENSE = re.compile(f"[{_DENSE}]")
_RUNS = re.compile(rf"[{_DENSE}]+|[^{_DENSE}]+")
_PARTS = re.compile(r"[-/._@'+&,]+")
_LIST_COMMA = re.compile(r"(?<!\d),|,(?!\d)")  # other commas are part of an amount
_LETTERS_IN_ORDER = re.compile("s+|.")
_LETTERS_BEFORE_NUMBER = re.compile(r"\D{1,8}(?=\d{3})")
# Numbers written in groups, as an IBAN or a telephone number is.
_GROUPS = re.compile(r"(?<!\S)[a-z]{0,3}\d{1,6}(?: \d{1,6}){1,11}(?!\S)")


class _Folds(dict[int, str]):
    """What `str.translate` puts for each character: letters and digits folded, joiners as they are, else a space."""

    def __missing__(self, code: int) -> str:
        folded = _fold_character(chr(code))
        if unicodedata.category(chr(code)) not in {"Cn", "Co", "Cs"}:  # there are a million of these
            self[code] = folded
        return folded


class _FoldsInPlace(_Folds):
    """The same, with exactly one character for each; what is left out becomes a soft hyphen."""

    def __missing__(self, code: int) -> str:
        return _FOLDS[code][:1] or _LEFT_OUT


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a query: all of `words`, each as a prefix, or else the word that `joined` makes of them."""

    words: tuple[str, ...]
    joined: tuple[str, ...] = ()

    def asked(self, prefix: str) -> str:
        """Return the tsquery for a block."""
        text = _all_of(prefix, self.words)
        return f"({_all_of(prefix, self.joined)} | {text})" if self.joined else text


def fold(text: str) -> str:
    """Fold a text: words keep letters and digits only, apart from the signs of codes; others become spaces."""
    folded = text.lower().translate(_FOLDS) if text.isascii() else _composed(text.translate(_FOLDS))
    return folded.replace("ae", "a").replace("oe", "o").replace("ue", "u")


def words_of(texts: Iterable[str | None], most_bytes: int = MOST_BYTES) -> list[str]:
    """Return the words of an e-mail, once each; of too many, those of the first texts."""
    found: dict[str, None] = {}
    size = 0
    for text in texts:
        for word in _words_in(fold(text)) if text else ():
            if word in found:
                continue
            size += len(word.encode()) + _PREFIX_BYTES
            if size > most_bytes or len(found) == MOST_WORDS:
                return list(found)
            found[word] = None
    return list(found)


def entries_of(email_id: int, texts: Iterable[str | None]) -> list[str]:
    """Return the words of an e-mail as the index has them, each beginning with the e-mail's block."""
    prefix = block_prefix(block_of(email_id))
    return [prefix + word for word in words_of(texts)]


def terms_of(query: str) -> list[Term]:
    """Return what an e-mail must have to match; nothing if the query has no letter and no digit.

    A word is left out if a longer one begins with it.
    """
    folded = fold(query)
    terms: list[Term] = []
    for groups in _GROUPS.finditer(folded):
        parts = groups[0].split(" ")
        terms.append(Term(tuple(parts), tuple(_asked_for(parts))))
    rest = _GROUPS.sub(" ", folded)
    asked = {word: None for parts in _codes_in(rest) for word in _asked_for(parts)}
    longest = [word for word in asked if not any(other != word and other.startswith(word) for other in asked)]
    return terms + [Term((word,)) for word in longest]


def folded_in_place(text: str) -> str:
    """Fold a text to one character for each of its own, for a pattern of `pattern_of`."""
    return text.lower() if text.isascii() else text.translate(_FOLDS_IN_PLACE)


def pattern_of(term: Term) -> re.Pattern[str]:
    """Return the pattern by which a text that was folded in place has a term, with what its words lost by folding."""
    return re.compile("|".join(map(_spellings, (*term.joined, *term.words))))


def block_of(email_id: int) -> int:
    return min(email_id >> BLOCK_BITS, MOST_BLOCK)


def first_id(block: int) -> int:
    return block << BLOCK_BITS


def block_prefix(block: int) -> str:
    """Return the beginning of all words of a block."""
    return f"{block:05x}"


def prefix_in_sql(email_id: ColumnElement[int]) -> ColumnElement[str]:
    """Return the beginning of an e-mail's words."""
    block: ColumnElement[int] = email_id.op(">>")(literal_column(str(BLOCK_BITS)))
    return prefix_of_block_in_sql(func.least(block, literal_column(str(MOST_BLOCK)), type_=BigInteger))


def prefix_of_block_in_sql(block: ColumnElement[int]) -> ColumnElement[str]:
    return func.lpad(func.to_hex(block), literal_column("5"), literal_column("'0'"), type_=Text)


def asked_in_sql(terms: Sequence[Term], prefix: ColumnElement[str]) -> ColumnElement[str]:
    """Return the tsquery for the block of `prefix`."""
    template = literal(" & ".join(term.asked("~") for term in terms), Text)
    return cast(func.replace(template, literal_column("'~'"), prefix), TSQUERY)


def _all_of(prefix: str, words: Iterable[str]) -> str:
    # A word has letters, digits and their marks only, so nothing in it needs an escape.
    return " & ".join(f"'{prefix}{word}':*" for word in words)


def _words_in(folded: str) -> Iterator[str]:
    for parts in _codes_in(folded):
        if len(parts) == 1 and parts[0].isascii() and parts[0].isalpha():  # most words
            yield parts[0][:LONGEST_WORD]
            continue
        spelled, dense = _spelled(parts)
        yield from _joined(spelled)
        if spelled and (number := _LETTERS_BEFORE_NUMBER.match(spelled[0])):
            yield next(_joined([spelled[0][number.end() :], *spelled[1:]]))
        for run in dense:  # each two neighbouring letters, and the last one
            yield from (run[place : place + 2] for place in range(len(run)))
    for groups in _GROUPS.finditer(folded):
        yield from _joined(groups[0].split(" "))


def _codes_in(folded: str) -> Iterator[list[str]]:
    """Yield the parts of each word or code, once."""
    for chunk in dict.fromkeys(folded.split()):
        if chunk.isascii() and chunk.isalnum():
            yield [chunk]
            continue
        for code in _LIST_COMMA.split(chunk) if "," in chunk else (chunk,):
            if parts := [part for part in _PARTS.split(code) if part]:
                yield parts


def _spelled(parts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the runs of scripts without spaces from the other parts."""
    if all(map(str.isascii, parts)):
        return [*parts], []
    runs = [run for part in parts for run in _RUNS.findall(part)]
    return [run for run in runs if not _IS_DENSE.match(run)], [run for run in runs if _IS_DENSE.match(run)]


def _joined(parts: Sequence[str]) -> Iterator[str]:
    """Join the parts of a code, from each of them on: any run of its parts begins one of these words."""
    for place in range(len(parts)):
        yield "".join(parts[place : place + _JOINED_PARTS])[:LONGEST_WORD]


def _asked_for(parts: Sequence[str]) -> Iterator[str]:
    """Yield the fewest words that together have all of a code."""
    spelled, dense = _spelled(parts)
    for place in range(max(1, len(spelled) - _JOINED_PARTS + 1) if spelled else 0):
        yield "".join(spelled[place : place + _JOINED_PARTS])[:LONGEST_WORD]
    for run in dense:
        yield from (run[place : place + 2] for place in range(max(1, len(run) - 1)))


def _spellings(word: str) -> str:
    """Return the pattern of a word with any signs and left out characters in it, ä as ae, and ß as ss."""
    is_number = len(word) >= _IN_GROUPS and word[-1].isdecimal()
    between = rf"[{_LEFT_OUT}\-/._@'+&,{' ' if is_number else ''}]{{0,3}}"
    letters: list[str] = []
    for found in _LETTERS_IN_ORDER.finditer(word):
        letter = found[0]
        if len(letter) > 1:
            # One repetition: a text would match many optional letters in countless ways.
            letters.append(f"s(?:{between}s){{0,{len(letter) - 1}}}")
        elif letter in "aou" and found.end() < len(word):
            letters.append(f"{letter}(?:{_LEFT_OUT}{{0,3}}e)?")
        else:
            letters.append(re.escape(letter))
    beginning = r"(?<!\d)" if word[0].isdecimal() else r"(?<![^\W_])"
    return ("" if _IS_DENSE.match(word) else beginning) + between.join(letters)


def _composed(text: str) -> str:
    """Put letters of Hangul and Kana together again, which `_fold_character` took apart."""
    return unicodedata.normalize("NFC", text)


def _fold_character(character: str) -> str:
    decomposed = unicodedata.normalize("NFKD", character).casefold()
    letters = "".join(_LETTERS.get(each, each) for each in unicodedata.normalize("NFKD", decomposed))
    return "".join(map(_fold_part, letters))


def _fold_part(character: str) -> str:
    if (sign := _SIGNS.get(character)) is not None:
        return sign
    kind = unicodedata.category(character)
    if kind in _SIGNS_OF_KIND:
        return _SIGNS_OF_KIND[kind]
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    if kind == "Mn" and (_is_accent(character) or _is_selector(character)):
        return ""
    return character if kind[0] in "LNM" else " "


def _is_accent(character: str) -> bool:
    # Classes below 10 belong to the letter in scripts of India; 0 are vowels of Thai and others.
    return unicodedata.combining(character) >= 10 and character not in _KANA_MARKS


def _is_selector(character: str) -> bool:
    return character == "\u034f" or "\ufe00" <= character <= "\ufe0f" or character >= "\U000e0100"


_PREFIX_BYTES: Final = len(block_prefix(0))
_FOLDS: Final = _Folds()
_FOLDS_IN_PLACE: Final = _FoldsInPlace()
