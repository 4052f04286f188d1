"""Labels: the fixed vocabulary of rules that tell of a token whether it is something, from the text alone.

A token's own labels follow from its text: its type, closed classes of words, endings, signs, blanks. Others follow from
what is before it in its window: "after x" is the label x of the token before. And a token is of a dataset, of a
language, or the first one of its window. No rule sees what follows, as no router does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial

import numpy as np
import xarray as xr

from gatebook.measures.token_types import TYPES, token_type
from gatebook.measures.word_classes import DEFAULT, LANGUAGES, LISTS, is_of
from gatebook.study import routed
from gatebook.study.routed import NONE, slices

SIGNS = {
    "opening brackets": "([{<（「『【",
    "closing brackets": ")]}>）」』】",
    "quotation marks": "\"'`“”‘’«»„",
    "ends of sentences": ".!?。！？…",
    "commas and colons": ",;:、，；：",
    "operators": "+-*/=<>&|^%~±×÷≤≥≠",
    "dashes and underscores": "-_–—",
}
"""Labels of signs: what such a token is made of."""
ENDINGS = {
    "words in -ed": ("ed",),
    "words in -ing": ("ing",),
    "words in -s": ("s",),
    "words in -ly": ("ly",),
    "nouns in -tion, -ment, -ness, -ity": ("tion", "ment", "ness", "ity"),
}
"""Labels of words: how they end."""
SHORTEST = 4
"""Letters of a word whose ending counts."""
WORDS = ("lower-case word", "word piece", "capitalised")
"""Types of tokens that are words or parts of words."""


_type = cache(token_type)


def _of_type(text: str, special: bool, language: str, name: str) -> bool:
    return _type(text, special) == name


def _of_class(text: str, special: bool, language: str, name: str) -> bool:
    return not special and is_of(text, name, language)


def _of_signs(text: str, special: bool, language: str, signs: str) -> bool:
    return not special and bool(text.strip()) and set(text.strip()) <= set(signs)


def _with_ending(text: str, special: bool, language: str, endings: tuple[str, ...]) -> bool:
    word = text.strip()
    return not special and word.isalpha() and len(word) >= SHORTEST and word.lower().endswith(endings)


def _line_end(text: str, special: bool, language: str) -> bool:
    return not special and ("\n" in text or "\r" in text)


def _blanks(text: str, special: bool, language: str) -> bool:
    return not special and not text.strip() and len(text) > 1 and not _line_end(text, special, language)


def _capitals(text: str, special: bool, language: str) -> bool:
    word = text.strip()
    return not special and len(word) > 1 and word.isalpha() and word.isupper()


def _letter(text: str, special: bool, language: str) -> bool:
    return not special and len(text.strip()) == 1 and text.strip().isalpha()


Rule = Callable[[str, bool, str], bool]
OWN: dict[str, Rule] = {
    **{name: partial(_of_type, name=name) for name in TYPES},
    **{name: partial(_of_class, name=name) for name in LISTS[DEFAULT]},
    **{name: partial(_with_ending, endings=endings) for name, endings in ENDINGS.items()},
    **{name: partial(_of_signs, signs=signs) for name, signs in SIGNS.items()},
    "line ends": _line_end,
    "several blanks": _blanks,
    "words in capitals": _capitals,
    "single letters": _letter,
}
"""A token's own label: the rule that tells it from its text, whether it is special, and the language of its dataset."""
AFTER = "after: "
NAMES = "names within sentences"
"""Capitalised tokens after another word."""
FIRST = "first token of a window"


def own(texts: Sequence[str], special: Sequence[bool], language: str) -> np.ndarray:
    """Which of the labels `OWN` the tokens with these texts have in a language: (token, label) bool."""
    made = [[rule(*one, language) for rule in OWN.values()] for one in zip(texts, special, strict=True)]
    return np.array(made, bool).reshape(len(texts), len(OWN))


@dataclass(frozen=True)
class Labels:
    """The labels of the tokens of a study that count.

    code, previous (token,) int64: the number of its token id and of that before it, `NONE` where a window begins;
    token_id (id,) int32: the ids by their numbers; dataset (token,) int64; datasets: their names; languages: of each,
    None where it is not known; tables: by language the `own` labels of all ids.
    """

    code: np.ndarray
    previous: np.ndarray
    token_id: np.ndarray
    dataset: np.ndarray
    datasets: list[str]
    languages: list[str | None]
    tables: dict[str, np.ndarray] = field(repr=False)

    @classmethod
    def of(
        cls,
        study: xr.Dataset,
        place: np.ndarray,
        texts: Callable[[np.ndarray], tuple[list[str], list[bool]]],
        languages: dict[str, str],
    ) -> "Labels":
        """Those of the tokens `place` of a study (`routed.read`).

        texts: gives of ids (id,) their texts and which are special; languages: by dataset, where they are known.
        """
        ids = study["token_id"].sel(kind="input").values
        token_id, code = np.unique(ids, return_inverse=True)
        first = routed.windows(study)[1] == 0
        previous = np.where(first, NONE, np.append(NONE, code[:-1]))
        names = study["name"].values.tolist()
        of = [languages.get(name) for name in names]
        known = texts(token_id)
        tables = {language: own(*known, language) for language in dict.fromkeys(each or DEFAULT for each in of)}
        dataset = study["dataset"].values[place].astype(np.int64)
        return cls(code[place], previous[place], token_id, dataset, names, of, tables)

    @cached_property
    def spoken(self) -> list[str]:
        """The languages of the datasets of which one is known."""
        return [language for language in LANGUAGES if language in self.languages]

    @cached_property
    def names(self) -> list[str]:
        """The labels, in the order of the columns of `matrix`; those of the token's own text first."""
        found = [*OWN, *(f"{AFTER}{name}" for name in OWN), NAMES, FIRST]
        found += [f"dataset: {name}" for name in self.datasets] if len(self.datasets) > 1 else []
        return found + ([f"language: {LANGUAGES[each]}" for each in self.spoken] if len(self.spoken) > 1 else [])

    @cached_property
    def _of_ids(self) -> np.ndarray:
        """The own labels of each id by dataset, and a row without any for the id `NONE`: (dataset, id + 1, label)."""
        padded = {name: np.append(table, np.zeros((1, len(OWN)), bool), axis=0) for name, table in self.tables.items()}
        return np.array([padded[language or DEFAULT] for language in self.languages])

    @cached_property
    def matrix(self) -> np.ndarray:
        """Which labels the tokens have: (token, label) bool."""
        return np.concatenate([self._block(part) for part in slices(len(self.code))])

    def _block(self, part: slice) -> np.ndarray:
        dataset, code, previous = self.dataset[part], self.code[part], self.previous[part]
        mine, before = self._of_ids[dataset, code], self._of_ids[dataset, previous]
        words = [list(OWN).index(name) for name in WORDS]
        capitalised = mine[:, list(OWN).index("capitalised")]
        columns = [mine, before, (capitalised & before[:, words].any(axis=1))[:, None], (previous == NONE)[:, None]]
        if len(self.datasets) > 1:
            columns.append(dataset[:, None] == np.arange(len(self.datasets)))
        if len(self.spoken) > 1:
            columns.append(np.array([[each == one for one in self.spoken] for each in self.languages])[dataset])
        return np.concatenate(columns, axis=1)

    def word_class(self, classes: Sequence[str]) -> np.ndarray:
        """Which of some own labels each token has: its place in `classes`, or their number, (token,) int64."""
        columns = [list(OWN).index(name) for name in classes]
        found = self._of_ids[self.dataset, self.code][:, columns]
        return np.where(found.any(axis=1), found.argmax(axis=1), len(classes))
