"""Languages: how much of where tokens go the language of their dataset explains, beside what word class does."""

from functools import cached_property

import numpy as np
import xarray as xr

from gatebook.chapters.annotation.labels import Labels
from gatebook.inputs.clusters import GROUPS
from gatebook.measures.explained import Partners, partners, share_explained
from gatebook.measures.word_classes import CLOSED

MEASURES = ("language_share", "class_share", "language_minus_class", "language_beyond_token")


class Languages:
    """Classes of the tokens of datasets whose language is known; there is something to find of at least two."""

    def __init__(self, labels: Labels, group: np.ndarray, cluster: np.ndarray, permutations: int, seed: int):
        """Labels, group and cluster (token,) of the tokens; how often languages are dealt to clusters, and the seed."""
        self._labels, self._group, self._permutations, self._seed = labels, group, permutations, seed
        self._cluster = cluster
        of = [labels.spoken.index(each) if each else -1 for each in labels.languages]
        self._language = np.array(of)[labels.dataset]

    @property
    def several(self) -> bool:
        """Whether there are at least two."""
        return len(self._labels.spoken) > 1

    def _partners(self, code: np.ndarray, among: np.ndarray) -> Partners:
        return partners(code, self._group, self._labels.dataset, len(self._labels.datasets), among)

    @cached_property
    def _classes(self) -> dict[str, Partners]:
        among, word = self._language >= 0, self._labels.word_class(CLOSED)
        shared = among & self._in_several()
        both = self._labels.code * len(self._labels.spoken) + self._language
        common = self._common(both, shared)
        return {
            "language": self._partners(self._language, among),
            "class": self._partners(word, among),
            "token": self._partners(self._labels.code, common),
            "both": self._partners(both, common),
        }

    def _in_several(self) -> np.ndarray:
        """Which tokens have an id that several languages have: (token,) bool."""
        code, known = self._labels.code, self._language >= 0
        held = np.zeros((len(self._labels.token_id), len(self._labels.spoken)), bool)
        held[code[known], self._language[known]] = True
        return held.sum(axis=1)[code] > 1

    def _common(self, both: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Which tokens have a partner of the same id and language: (token,) bool."""
        kept = np.zeros(len(both), bool)
        kept[self._partners(both, among).place] = True
        return kept

    @cached_property
    def _dealt(self) -> list[Partners]:
        """Partners by language, if languages are dealt to clusters at random."""
        known = np.flatnonzero(self._language >= 0)
        _, first, code = np.unique(self._cluster[known], return_index=True, return_inverse=True)
        of_cluster, rng, found = self._language[known][first], np.random.default_rng(self._seed), []
        for _ in range(self._permutations):
            dealt = np.full(len(self._language), -1)
            dealt[known] = rng.permutation(of_cluster)[code]
            found.append(self._partners(dealt, self._language >= 0))
        return found

    def explained(self, selected: np.ndarray, experts: int) -> xr.Dataset:
        """The measures (draw,) of a layer, and `null_language_share` (permutation,), from the experts of all tokens."""
        draws = (1 + GROUPS,)
        if not self.several:
            found = {name: ("draw", np.full(draws, np.nan)) for name in MEASURES}
            return xr.Dataset(found | {"null_language_share": ("permutation", np.full(self._permutations, np.nan))})
        share = {name: share_explained(each, selected, experts).share[:, 0] for name, each in self._classes.items()}
        values = (
            share["language"],
            share["class"],
            share["language"] - share["class"],
            share["both"] - share["token"],
        )
        null = [share_explained(each, selected, experts).share[0, 0] for each in self._dealt]
        found = {name: ("draw", each) for name, each in zip(MEASURES, values, strict=True)}
        return xr.Dataset(found | {"null_language_share": ("permutation", null)})
