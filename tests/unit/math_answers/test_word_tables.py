"""Tables of words in words.toml: complete, well formed, and read as meant."""

import re
import tomllib
import unicodedata
from importlib import resources

import pytest

from megatron_rl.math_answers.text import word_tables
from megatron_rl.math_answers.text.units import is_unit

LANGUAGES = tomllib.loads(
    resources.files("megatron_rl.math_answers.text").joinpath("words.toml").read_text("utf-8")
)
LISTS = {"and", "or", "and_in_text", "or_in_text", "not_units", "where", "if", "otherwise", "is"}
PHRASES = {"no_solution", "every_real", "answer_is", "not_units_pattern"}
TABLES = {"units", "magnitudes", "parts"}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        # Counted in the tables as they were written before they were split by language.
        ("UNITS", 201),
        ("AND_OR", 9),
        ("AND_OR_IN_TEXT", 5),
        ("NOT_UNITS", 90),
        ("MAGNITUDES", 41),
        ("PARTS", 14),
        ("WHERE", 14),
        ("IF", 17),
        ("OTHERWISE", 10),
        ("IS", 5),
    ],
)
def test_no_word_is_lost(name, number):
    assert len(getattr(word_tables, name)) >= number


@pytest.mark.parametrize(
    ("name", "number"), [("NO_SOLUTION", 22), ("EVERY_REAL", 7), ("ANSWER_IS", 7)]
)
def test_no_phrase_is_lost(name, number):
    assert sum(
        len(table[name.lower()]) for table in LANGUAGES.values() if name.lower() in table
    ) >= (number)


@pytest.mark.parametrize(
    ("table", "word", "meaning"),
    [
        ("UNITS", "m\u00e8tre", "meter"),  # French
        ("UNITS", "metro", "meter"),  # Spanish and Italian
        ("UNITS", "d\u00f3lares", "dollar"),
        ("UNITS", "zentimeter", "centimeter"),
        ("UNITS", "\u0440\u0443\u0431\u043b\u0435\u0439", "ruble"),  # roubles, in the genitive
        ("UNITS", "\u4eba\u6c11\u5e01", "yuan"),  # renminbi
        ("AND_OR", "\u0438\u043b\u0438", "or"),
        ("AND_OR", "und", "and"),
        ("AND_OR_IN_TEXT", "ou", "or"),
        ("MAGNITUDES", "\u4ebf", 100_000_000),
        ("MAGNITUDES", "milliarden", 1_000_000_000),
        ("PARTS", "twelfth", 12),
    ],
)
def test_a_word_has_its_meaning(table, word, meaning):
    assert getattr(word_tables, table)[word] == meaning


def test_and_or_of_text_are_no_words_elsewhere():
    assert not word_tables.AND_OR.keys() & word_tables.AND_OR_IN_TEXT.keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_known_tables_only(language):
    assert set(LANGUAGES[language]) <= LISTS | PHRASES | TABLES


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_in_lower_case_and_composed_characters_and_stand_once(language):
    table = LANGUAGES[language]
    lists = [table[key] for key in table.keys() & LISTS]
    lists += [[w for words in table[key].values() for w in words] for key in table.keys() & TABLES]
    for words in lists:
        # Not casefold(): that makes "ss" of a sharp s.
        assert words == [unicodedata.normalize("NFC", word.lower()) for word in words]
        assert len(words) == len(set(words))


def test_units_are_told_by_english_names_that_are_known():
    names = set(word_tables.UNITS.values())
    assert {name for name in names if not is_unit(name)} == {"unit"}  # of no dimension


@pytest.mark.parametrize(
    ("pattern", "phrase"),
    [
        (word_tables.NO_SOLUTION, "il n'y a pas de solution r\u00e9elle"),
        (word_tables.NO_SOLUTION, "no tiene soluci\u00f3n"),
        (word_tables.NO_SOLUTION, "keine loesung"),
        (word_tables.NO_SOLUTION, "\u65e0\u5b9e\u6570\u89e3"),  # no real solution
        (word_tables.EVERY_REAL, "tutti i numeri reali"),
        (word_tables.ANSWER_IS, "\u043e\u0442\u0432\u0435\u0442"),  # answer
    ],
)
def test_a_phrase_is_recognised(pattern, phrase):
    assert re.fullmatch(pattern, phrase)


def test_chinese_characters_that_deny_are_seen_anywhere_in_a_word():
    assert word_tables.NOT_UNITS_CHINESE.search("\u7c73\u4e0d")  # metre, not
    assert not word_tables.NOT_UNITS_CHINESE.search("\u7c73")
