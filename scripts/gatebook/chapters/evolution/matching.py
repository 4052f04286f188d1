"""Matching: which expert of one checkpoint is which of another, whatever their numbers.

N_ij is how many tokens select expert i at one checkpoint and j at the other. The one-to-one map with the largest sum of
N (Hungarian method) is found on the tokens of every second group of clusters and counted on the others, and the other
way round: counted on the tokens that it was found on, it would gain by noise alone.
"""

from typing import NamedTuple

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from gatebook.inputs.clusters import GROUPS


class Matching(NamedTuple):
    """In every draw (draw,) float64: the saturation with experts `matched`, what that `gain`s over their numbers as
    they are, and the share of experts that are `kept`, which are matched to their own number. NaN where a half of the
    groups holds no token."""

    matched: np.ndarray
    gain: np.ndarray
    kept: np.ndarray


def matching(selected: np.ndarray, final: np.ndarray, group: np.ndarray, weight: np.ndarray, experts: int) -> Matching:
    """Experts of a checkpoint matched to those of the last one.

    Parameters
    ----------
    selected, final
        The experts of all tokens at both, (token, rank) unsigned int.
    group
        The group of each token's cluster, (token,) int.
    weight
        What each token counts, (token,) float64.
    experts
        How many there are.

    Returns
    -------
    Matching
        Draw 0 is that of all tokens, draw g + 1 leaves out group g.
    """
    pairs = pair_counts(selected, final, group, weight, experts)
    held = np.bincount(group, weights=weight, minlength=GROUPS) * selected.shape[1]
    draws = [_matched(pairs, held, left_out) for left_out in (None, *range(GROUPS))]
    return Matching(*np.array(draws).T)


def by_chance(
    selected: np.ndarray,
    final: np.ndarray,
    group: np.ndarray,
    weight: np.ndarray,
    experts: int,
    permutations: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """The saturation with experts matched, and what matching gains, with the last one's tokens in random order.

    Parameters
    ----------
    selected, final, group, weight, experts
        As those of `matching`.
    permutations
        How many orders there are.
    rng
        Draws them; is moved on.

    Returns
    -------
    tuple[float, float]
        Means over the orders.
    """
    held = np.bincount(group, weights=weight, minlength=GROUPS) * selected.shape[1]
    orders = (rng.permutation(len(final)) for _ in range(permutations))
    drawn = [_matched(pair_counts(selected, final[order], group, weight, experts), held, None) for order in orders]
    return tuple(np.mean(drawn, axis=0)[:2].tolist())


def pair_counts(
    selected: np.ndarray, final: np.ndarray, group: np.ndarray, weight: np.ndarray, experts: int
) -> np.ndarray:
    """N by group, from what `matching` takes.

    Parameters
    ----------
    selected, final, group, weight, experts
        As those of `matching`.

    Returns
    -------
    numpy.ndarray
        (group, expert, expert of the last one) float64.
    """
    found = np.zeros((GROUPS, experts, experts))
    _add_pairs(selected, final, group, weight, found)
    return found


def _matched(pairs: np.ndarray, held: np.ndarray, left_out: int | None) -> tuple[float, float, float]:
    """The fields of `Matching` without a group."""
    numbers = [[each for each in range(first, GROUPS, 2) if each != left_out] for first in (0, 1)]
    halves = [(pairs[each].sum(axis=0), held[each].sum()) for each in numbers]
    total = sum(size for _, size in halves)
    if min(size for _, size in halves) == 0:
        return np.nan, np.nan, np.nan
    matched = kept = 0.0
    for (fitted, _), (counted, _) in (halves, halves[::-1]):
        rows, columns = linear_sum_assignment(fitted, maximize=True)
        matched += counted[rows, columns].sum() / total
        kept += (rows == columns).mean() / 2
    return matched, matched - sum(np.trace(part) for part, _ in halves) / total, kept


@numba.njit(cache=True)
def _add_pairs(selected, final, group, weight, found):
    """Add what every token counts to the pairs of its experts."""
    for token in range(len(group)):
        for one in range(selected.shape[1]):
            for other in range(final.shape[1]):
                found[group[token], selected[token, one], final[token, other]] += weight[token]
