import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatebook.measures.token_types import TYPES, classify, token_type

EXAMPLES = {
    "whitespace": [" ", "\n", "\t\t", "\r\n", "\u00a0", "\u3000"],
    "other script": ["日本", " привет", "\ufffd", "aλ", "नि", "µ", "\u0301" + "ж"],
    "punctuation": [".", "();", " ->", "…", "😀", "_", "'", " --", "\u202e", "\x00", "°", "❤\ufe0f", "\u0301"],
    "number": ["7", " 2024", "3.14", "-1", "½", "٣", "²"],
    "identifier": ["self.", "_name", "x1", " camelCase", "a_b", "to_csv(", "<b>", " JavaScript"],
    "capitalised": ["The", " The", "HTTP", " O'Neil", "Éire", "ǅ", " I", "-The"],
    "lower-case word": [" the", " don't", "\nwell-known", " naïve", " cafe\u0301"],
    "word piece": ["ing", "'s", "-able", "ß", "e\u0301"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in EXAMPLES.items() for text in texts])
def test_examples_of_every_type(name, text):
    assert token_type(text) == name


def test_a_special_token_is_special_whatever_its_text():
    assert [token_type(text, special=True) for text in ("<|endoftext|>", "", "the", " ")] == ["special"] * 4


@given(st.text(), st.booleans())
def test_every_text_has_exactly_one_known_type(text, special):
    assert token_type(text, special) in TYPES


@given(st.text(min_size=1))
def test_a_type_says_what_its_characters_are(text):
    found, initials = token_type(text), {unicodedata.category(character)[0] for character in text.strip()}
    letters = "L" in initials
    if found in ("punctuation", "number", "whitespace"):
        assert not letters
    if found in ("identifier", "capitalised", "lower-case word", "word piece"):
        assert letters
    assert (found == "whitespace") == (not text.strip())


def test_types_are_given_by_their_index():
    found = classify([" the", "</s>", "7"], [False, True, False])
    assert found.dtype == np.int8
    assert [list(TYPES)[index] for index in found] == ["lower-case word", "special", "number"]
