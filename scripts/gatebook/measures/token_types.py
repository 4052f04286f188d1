"""Token types: what kind of text a token is, told from its own text alone.

Every token is of exactly one type, the first in the order of `TYPES` whose description fits. Letters are the characters
of the Unicode category L, Latin ones if their name says LATIN, and digits those of N. A mark (M) that is no COMBINING
one and no VARIATION SELECTOR counts as a letter that is not Latin; the others change nothing.
"""

import unicodedata
from functools import cache
from itertools import pairwise

import numpy as np

TYPES = {
    "special": "a special token of the tokenizer, such as the end of a text",
    "whitespace": "blanks, tabs and line breaks only",
    "other script": "holds a letter that is not Latin, or is only a part of a character",
    "punctuation": "neither letters nor digits: punctuation marks and other signs",
    "number": "digits, with or without signs, but no letters",
    "identifier": "Latin letters with a digit, an underscore or another sign, or with a capital after a small letter",
    "capitalised": "Latin letters, apostrophes and hyphens only; the first letter is a capital",
    "lower-case word": "the same with a small first letter, after a blank",
    "word piece": "the same without a blank before: the rest of a word, or a word at the start of a line",
}
"""Token type: what is in it."""
_IN_WORDS = "'’-"


def token_type(text: str, special: bool = False) -> str:
    """The type of a token with this text; text that is a part of a character holds U+FFFD."""
    core = text.strip()
    if special:
        return "special"
    if not core:
        return "whitespace"
    kinds = {_kind(character) for character in core}
    if kinds & {"other letter", "part"}:
        return "other script"
    if "letter" not in kinds:
        return "number" if "digit" in kinds else "punctuation"
    letters = [character for character in core if _kind(character) == "letter"]
    if kinds - {"letter", "in words"} or any(a.islower() and b.isupper() for a, b in pairwise(core)):
        return "identifier"
    if letters[0].isupper() or letters[0].istitle():
        return "capitalised"
    return "lower-case word" if text[0].isspace() else "word piece"


def classify(texts: list[str], special: list[bool]) -> np.ndarray:
    """The types of tokens with these texts, int8 (token,): indices into `TYPES`."""
    names = list(TYPES)
    found = [names.index(token_type(text, marked)) for text, marked in zip(texts, special, strict=True)]
    return np.array(found, dtype=np.int8)


@cache
def _kind(character: str) -> str:
    """What a character is: "part" of another one, Latin "letter", "other letter", "digit", "in words", or "sign"."""
    if character == "\ufffd":
        return "part"
    category, name = unicodedata.category(character)[0], unicodedata.name(character, "")
    if character in _IN_WORDS or (category == "M" and name.startswith(("COMBINING", "VARIATION SELECTOR"))):
        return "in words"
    if category in "LM":
        return "letter" if "LATIN" in name else "other letter"
    return "digit" if category == "N" else "sign"
