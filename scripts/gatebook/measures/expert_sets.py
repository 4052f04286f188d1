"""Expert sets: which one to three experts of a layer work together, and which of them serve one dataset.

In the mode "subset" a token has every set of one to three of its k selected experts; in "ordered" it has its first one
to three experts in their order, in "prefix" the same as a set. A set is written in the order of its ranks in the mode
"ordered", by increasing expert otherwise. All counts are exact.

The score of a set S for a dataset d is r_d / sum over all datasets of r, with r_d = c_Sd / T_d, the share of the
dataset's T_d tokens that have the set; 1 / D for D datasets that have it equally often. Tokens of a cluster depend on
each other, so the variance of r_d is that between its G_d groups of clusters that hold any: for a ratio of sums,
v_d = G_d / (G_d - 1) sum over groups of (c_g - r_d T_g)^2 / T_d^2 (Cochran 1977, Sampling Techniques, 6.3), and at
least that of one token, 1 / T_d^2. With it, (1 - s) r_d - s sum of the others' r over its standard error has Student's
t distribution, with Satterthwaite's degrees of freedom, if s is the true score: the interval is all s that this test
does not refuse (Fieller 1954), and p, one-sided, is that of s = 1 / D, the null that the dataset has the set as often
as the others do on average. The far tail of t rests on its form alone, not on the data: p is at least 2^-G_d, that of
the one most extreme of all ways to choose signs for G_d groups, so a p of 2^-G_d means that value or less.
"""

from collections.abc import Iterator
from itertools import combinations

import numba
import numpy as np
import pandas as pd
import scipy.stats

from gatebook.study.routed import slices

MODES = ("subset", "ordered", "prefix")
SIZES = (1, 2, 3)
SETS_PER_BLOCK = 1 << 14


class Sets:
    """The sets of one size and mode that the tokens of a layer have.

    selected (token, rank) are the selected experts, first choice first, of E = `experts`; `weight` (token, rank) their
    routing weights. A set's `code` is its experts as digits of a number to the base E.
    """

    def __init__(self, selected: np.ndarray, weight: np.ndarray, experts: int, mode: str, size: int):
        """Put every token's experts into the order in which the mode writes sets."""
        ranks = selected.shape[1] if mode == "subset" else size
        self.experts, self.size = experts, size
        self._expert = np.empty((ranks, len(selected)), selected.dtype)
        self._weight = np.empty((ranks, len(selected)), np.float32)
        for block in slices(len(selected)):
            chosen, heavy = selected[block, :ranks], weight[block, :ranks]
            if mode != "ordered":
                order = np.argsort(chosen, axis=1)
                chosen, heavy = (np.take_along_axis(values, order, axis=1) for values in (chosen, heavy))
            self._expert[:, block], self._weight[:, block] = chosen.T, heavy.T
        self._places = np.array(list(combinations(range(ranks), size)))

    def totals(self) -> np.ndarray:
        """How many tokens have each set: int64 by code."""
        everything = np.zeros(self._expert.shape[1], np.int8)
        return self._count(np.arange(self.experts**self.size), everything, 1)[:, 0]

    def counts(self, codes: np.ndarray, column: np.ndarray, columns: int) -> np.ndarray:
        """How many tokens of each column have the sets `codes`: int64 (set, column), from each token's column."""
        return self._count(codes, column, columns)

    def members(self, codes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each of the sets `codes` the tokens that have it, increasing, and its weight there.

        The weight of a set is the sum of the routing weights of its experts.
        """
        for experts in self.written(codes).tolist():
            token: slice | np.ndarray = slice(None)
            for place, expert in enumerate(experts):
                ranks = slice(place, place + 1) if len(self._places) == 1 else slice(None)
                having = np.flatnonzero((self._expert[ranks, token] == expert).any(axis=0)).astype(np.int32)
                token = token[having] if place else having
            ranks = [(self._expert[:, token] == expert).argmax(axis=0) for expert in experts]
            yield token, sum(self._weight[rank, token] for rank in ranks)

    def written(self, codes: np.ndarray) -> np.ndarray:
        """The experts of the sets `codes`: (set, expert)."""
        powers = self.experts ** np.arange(self.size)[::-1]
        return codes[:, None] // powers % self.experts

    def _count(self, codes: np.ndarray, column: np.ndarray, columns: int) -> np.ndarray:
        row, found = np.full(self.experts**self.size, -1), np.zeros((len(codes), columns), np.int64)
        row[codes] = np.arange(len(codes))
        _add_sets(self._expert, self._places, self.experts, row, column, found)
        return found


@numba.njit(cache=True)
def _add_sets(expert, places, experts, row, column, found):
    """Add to `found` (set, column) the tokens that have sets: of the experts (rank, token) at each of the `places`
    (place, rank), if `row` by code is not -1, in each token's `column`."""
    for token in range(expert.shape[1]):
        for place in range(len(places)):
            code = 0
            for rank in places[place]:
                code = code * experts + np.int64(expert[rank, token])
            if row[code] >= 0:
                found[row[code], column[token]] += 1


def most_frequent(totals: np.ndarray, number: int) -> np.ndarray:
    """The codes of the `number` most frequent sets, fewer if fewer occur; of equal ones the smaller codes first."""
    occurring = np.flatnonzero(totals)
    return occurring[np.argsort(-totals[occurring], kind="stable")[:number]]


def scores(counts: np.ndarray, tokens: np.ndarray, confidence: float) -> np.ndarray:
    """Score, low and high end of its interval, and p of sets: float64 (4, set, dataset).

    counts (set, dataset, group): tokens that have the set; tokens (dataset, group). All but the score are NaN if there
    is one dataset, or one with documents in one group only. The score is NaN for a set that no token has.
    """
    datasets = len(tokens)
    parts = [
        _scores(counts[start : start + SETS_PER_BLOCK].astype(np.float64), tokens, confidence)
        for start in range(0, len(counts), SETS_PER_BLOCK)
    ]
    return np.concatenate(parts, axis=1) if parts else np.zeros((4, 0, datasets))


def _scores(counts: np.ndarray, tokens: np.ndarray, confidence: float) -> np.ndarray:
    datasets, total = len(tokens), tokens.sum(axis=1)
    groups = (tokens > 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = counts.sum(axis=2) / total
        residual = ((counts - rate[:, :, None] * tokens) ** 2).sum(axis=2)
        variance = np.maximum(groups / (groups - 1) * residual, 1) / total**2
        whole = rate.sum(axis=1, keepdims=True)
        score, null = rate / whole, 1 / datasets
        others, spread = whole - rate, variance.sum(axis=1, keepdims=True) - variance
        # Student's t of (1 - s) r - s others at s = null; each part has the degrees of freedom of its own groups.
        mine, theirs = (1 - null) ** 2 * variance, null**2 * spread
        squares = variance**2 / (groups - 1)
        remaining = squares.sum(axis=1, keepdims=True) - squares
        freedom = (mine + theirs) ** 2 / ((1 - null) ** 4 * squares + null**4 * remaining)
        if datasets == 1:
            freedom = np.full_like(freedom, np.nan)
        p = scipy.stats.t.sf(((1 - null) * rate - null * others) / np.sqrt(mine + theirs), freedom)
        # The test at s does not refuse where (r - s whole)^2 <= t^2 ((1 - s)^2 v + s^2 spread): a s^2 - 2 b s + c <= 0.
        # Between the roots if a > 0; otherwise `whole` is not told from 0, and no s is refused.
        t = scipy.stats.t.ppf((1 + confidence) / 2, freedom) ** 2
        a, b, c = whole**2 - t * (variance + spread), rate * whole - t * variance, rate**2 - t * variance
        root = np.sqrt(np.maximum(b**2 - a * c, 0))
        low, high = (np.where(a > 0, np.clip((b + sign * root) / a, 0, 1), end) for sign, end in ((-1, 0), (1, 1)))
    p = np.maximum(p, 0.5**groups)
    low, high = (np.where(np.isnan(p), np.nan, end) for end in (low, high))
    return np.array([score, low, high, p])


def adjusted(p: np.ndarray) -> np.ndarray:
    """p-values (set, dataset) adjusted over all of them, one family (Benjamini-Hochberg); NaN is no test."""
    known, q = ~np.isnan(p), np.full_like(p, np.nan)
    if known.any():
        q[known] = scipy.stats.false_discovery_control(p[known])
    return q


def specific(
    written: list[list[int]],
    counts: np.ndarray,
    found: np.ndarray,
    q: np.ndarray,
    names: list[str],
    *,
    rate: float,
    most: int,
) -> tuple[pd.DataFrame, list[int]]:
    """The sets that are specific to each dataset, and how many there are.

    A set is specific to a dataset with an adjusted p of at most `rate`.

    Parameters
    ----------
    written
        The experts of each set.
    counts
        Tokens that have it: (set, dataset) int.
    found
        Its `scores`.
    q
        Its p, `adjusted` over all sets that are searched together: (set, dataset).
    names
        Of the datasets.
    rate
        Of false discoveries, between 0 and 1.
    most
        At most so many rows for each dataset.

    Returns
    -------
    table : pandas.DataFrame
        The sets with the largest score of each dataset: experts (text), dataset, tokens (in all), dataset_tokens,
        score, low, high, p, q (adjusted p).
    numbers : list of int
        Specific sets of each dataset.
    """
    score, low, high, p = found
    parts, numbers = [], []
    for index, name in enumerate(names):
        passed = np.flatnonzero(q[:, index] <= rate)
        best = passed[np.argsort(-score[passed, index], kind="stable")[:most]]
        numbers.append(len(passed))
        columns = {
            "experts": [" ".join(map(str, written[row])) for row in best],
            "dataset": name,
            "tokens": counts[best].sum(axis=1),
            "dataset_tokens": counts[best, index],
        }
        values = {"score": score, "low": low, "high": high, "p": p, "q": q}
        parts.append(pd.DataFrame(columns | {key: array[best, index] for key, array in values.items()}))
    return pd.concat(parts, ignore_index=True), numbers
