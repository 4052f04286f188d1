"""Stability: how many of a token's experts are the same where it is routed twice, and what chance would give.

The overlap of two sets of experts is |S and S'| / k. It is corrected for what chance would give, (A - A_0) / (1 - A_0):
A_0 is the mean overlap of S of a token and S' of another one in another group of clusters, of any dataset, all of which
have equal weights. It follows from loads. Pooled is the mean over datasets, of A and of A_0.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from gatebook.inputs.clusters import GROUPS

TINY = 1e-12


class Cells(NamedTuple):
    """Where tokens are from: `group`, `dataset` (token,) int64, and the number of `datasets`."""

    group: np.ndarray
    dataset: np.ndarray
    datasets: int

    @classmethod
    def of(cls, study: xr.Dataset, place: np.ndarray) -> "Cells":
        """The cells of some tokens of a study."""
        group, dataset = (study[name].values[place].astype(np.int64) for name in ("group", "dataset"))
        return cls(group, dataset, study.sizes["name"])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sums of values (token, ...) by group and dataset: (group, dataset, ...) float64."""
        total = np.zeros((GROUPS, self.datasets, *values.shape[1:]))
        np.add.at(total, (self.group, self.dataset), values)
        return total

    def loads(self, selected: np.ndarray, experts: int) -> np.ndarray:
        """How many tokens select each expert, from their sets (token, rank): (group, dataset, expert) float64."""
        cell = self.group * self.datasets + self.dataset
        count = np.bincount((cell[:, None] * experts + selected).ravel(), minlength=GROUPS * self.datasets * experts)
        return count.reshape(GROUPS, self.datasets, experts).astype(np.float64)


def mean(values: np.ndarray, among: np.ndarray, cells: Cells) -> np.ndarray:
    """The mean of values over the tokens `among` all, without each group: (draw, 1 + dataset) float64.

    Draw 0 is that of all groups, draw g + 1 leaves out group g. The first dataset is all of them, whose tokens count
    such that datasets have equal weights. NaN where there is no token.

    values (token,) float; among (token,) bool.
    """
    part, whole = (_without_each(cells.sums(each)) for each in (np.where(among, values, 0), among.astype(float)))
    return _ratios(part, whole, _without_each(cells.sums(np.ones(len(among)))))


def _without_each(sums: np.ndarray) -> np.ndarray:
    """Sums by group (group, ...) as that of all and those without each group: (draw, ...)."""
    total = sums.sum(axis=0)
    return np.concatenate([total[None], total - sums])


def _ratios(part: np.ndarray, whole: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Part by whole, (draw, dataset), of every dataset, and before it of all of them, weighted by 1 / `tokens`."""
    weight = np.where(tokens > 0, 1 / np.maximum(tokens, 1), 0)
    part, whole = (np.concatenate([(each * weight).sum(axis=1, keepdims=True), each], axis=1) for each in (part, whole))
    return part / np.where(whole > TINY, whole, np.nan)


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|S and S'| / k of each token, from two sets (token, rank), k that of the first: (token,) float64."""
    shared = np.zeros(len(one))
    for rank in range(other.shape[1]):
        shared += (one == other[:, rank, None]).any(axis=1)
    return shared / one.shape[1]


def by_chance(one: np.ndarray, other: np.ndarray, experts: int, cells: Cells) -> np.ndarray:
    """A_0: the mean overlap of S of one token and S' of another one in another group, (draw, 1 + dataset) as `mean`.

    one, other (token, rank): the sets. A dataset's tokens are held against those of all datasets.
    """
    tokens, kept = cells.sums(np.ones(len(one))), 1 - np.eye(1 + GROUPS, GROUPS, k=-1)
    held = _without_each(tokens)
    weight = np.where(held > 0, 1 / np.maximum(held, 1), 0)
    load = np.einsum("wg,gde,wd->wge", kept, cells.loads(other, experts), weight, optimize=True)
    size = np.einsum("wg,gd,wd->wg", kept, tokens, weight, optimize=True)
    load, size = (each.sum(axis=1, keepdims=True) - each for each in (load, size))  # of the other groups
    shared = np.einsum("wg,gde,wge->wd", kept, cells.loads(one, experts), load, optimize=True) / one.shape[1]
    return _ratios(shared, np.einsum("wg,gd,wg->wd", kept, tokens, size, optimize=True), held)


def corrected(one: np.ndarray, other: np.ndarray, experts: int, cells: Cells) -> np.ndarray:
    """(A - A_0) / (1 - A_0), (draw, 1 + dataset) as `mean`; one, other (token, rank) are the sets."""
    shared = mean(overlap(one, other), np.ones(len(one), bool), cells)
    chance = by_chance(one, other, experts, cells)
    return (shared - chance) / np.where(1 - chance > TINY, 1 - chance, np.nan)


def kept(
    before: np.ndarray, after: np.ndarray, margin: np.ndarray, experts: int, cells: Cells
) -> dict[str, np.ndarray]:
    """What is left of where tokens go in one layer, each (draw, 1 + dataset) as `mean`.

    Parameters
    ----------
    before, after
        Their sets of experts: (token, rank) int.
    margin
        Their boundary margins before, NaN where they are not known: (token,) float32.
    experts
        Of the layer.
    cells
        Where the tokens are from.

    Returns
    -------
    dict
        `kept_experts`, the mean overlap; `agreement`, the same corrected for chance; `equal_sets`, the share of tokens
        whose sets are equal; `margin_changed`, `margin_kept`, the mean margins of those whose sets differ and of the
        others.
    """
    shared, every, known = overlap(before, after), np.ones(len(before), bool), np.isfinite(margin)
    equal = equal_sets(before, after)
    return {
        "kept_experts": mean(shared, every, cells),
        "agreement": corrected(before, after, experts, cells),
        "equal_sets": mean(equal.astype(float), every, cells),
        "margin_changed": mean(margin, known & ~equal, cells),
        "margin_kept": mean(margin, known & equal, cells),
    }


def equal_sets(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether two sets (token, rank) of each token are equal, whatever the order: (token,) bool."""
    return (overlap(one, other) == 1) & (one.shape[1] == other.shape[1])
