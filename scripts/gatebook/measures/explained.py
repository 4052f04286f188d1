"""Share explained: how much of where tokens go is decided by a class that they belong to, such as their token id.

y is the set of the k experts that a token selects, as E numbers 0 and 1; its total variance is k - |mu|^2, mu the mean
of y over tokens. A class c, of which every token has one value, explains

    R^2(c) = (E_c |mu_c|^2 - |mu|^2) / (k - |mu|^2).

E_c |mu_c|^2 is the expected number of experts that two different tokens of the same value share, and |mu|^2 that of any
two. Both are estimated from pairs of tokens in different groups of clusters, and so from tokens that have nothing but
the class in common: the variance of means, in which each token is its own partner, would find a share in a class that
explains nothing. Tokens without a partner of their value count in neither; how many have one is the coverage.
"""

from typing import NamedTuple

import numba
import numpy as np

from gatebook.inputs.clusters import GROUPS


class Explained(NamedTuple):
    """The share explained (draw,) float64, and the share of tokens with a partner, `coverage` (draw,) float64.

    Draw 0 is that of all tokens, draw g + 1 leaves out group g: for `uncertainty.jackknife`.
    """

    share: np.ndarray
    coverage: np.ndarray


def share_explained(code: np.ndarray, group: np.ndarray, selected: np.ndarray, experts: int) -> Explained:
    """R^2 of a class.

    Parameters
    ----------
    code
        The value of each token's class, (token,) int from 0.
    group
        The group of its cluster, (token,) int from 0 to `GROUPS` - 1.
    selected
        Its experts, (token, rank) unsigned int, all different.
    experts
        How many there are.

    Returns
    -------
    Explained
        NaN where no two tokens of different groups share a value, or all tokens select the same experts.
    """
    order = np.lexsort((group, code))
    starts = np.append(0, np.cumsum(np.bincount(code)))
    group, selected = group[order].astype(np.int64), np.ascontiguousarray(selected[order])
    shared, covered = np.zeros(1 + GROUPS), np.zeros((1 + GROUPS, GROUPS))
    loads, room = np.zeros((1 + GROUPS, GROUPS, experts)), np.zeros((GROUPS, experts))
    _add_classes(starts, group, selected, room, shared, covered, loads)
    for part in (shared, covered, loads):
        part[1:] += part[0]
    held = np.bincount(group, minlength=GROUPS)
    tokens = np.append(len(code), len(code) - held)
    with np.errstate(divide="ignore", invalid="ignore"):
        number = covered.sum(axis=1)
        same, any_two = shared / number, _overlap(loads, covered)
        rest = selected.shape[1] - any_two
        share = np.where((number > 0) & (rest > 1e-12), (same - any_two) / rest, np.nan)
        return Explained(share, number / tokens)


def _overlap(loads: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """How many experts two tokens of different groups share on average: (draw,), from counts (draw, group, expert) and
    numbers of tokens (draw, group)."""
    pairs = tokens.sum(axis=1) ** 2 - (tokens**2).sum(axis=1)
    return ((loads.sum(axis=1) ** 2).sum(axis=1) - (loads**2).sum(axis=(1, 2))) / pairs


@numba.njit(cache=True)
def _add_classes(starts, group, selected, counts, shared, covered, loads):
    """Add the tokens of all values to draw 0 of the sums, and to the others what leaving out a group changes.

    `counts` (group, expert) is room. Every token of a group shares with those of the other groups, on average, as many
    experts as its group's counts and theirs have in common, by their number.
    """
    tokens, present = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    for code in range(len(starts) - 1):
        counts[:] = 0
        tokens[:] = 0
        for token in range(starts[code], starts[code + 1]):
            tokens[group[token]] += 1
            for rank in range(selected.shape[1]):
                counts[group[token], selected[token, rank]] += 1
        groups = 0
        for number in range(len(counts)):
            if tokens[number] > 0:
                present[groups] = number
                groups += 1
        _add_class(counts, tokens, present[:groups], -1, 1, 0, shared, covered, loads)
        for place in range(groups):
            left_out = present[place]
            _add_class(counts, tokens, present[:groups], -1, -1, 1 + left_out, shared, covered, loads)
            _add_class(counts, tokens, present[:groups], left_out, 1, 1 + left_out, shared, covered, loads)


@numba.njit(cache=True)
def _add_class(counts, tokens, present, left_out, sign, draw, shared, covered, loads):
    """Add `sign` times the tokens of one value, without the group `left_out`, to one draw of the sums."""
    total, groups = 0, 0
    for number in present:
        if number != left_out:
            total += tokens[number]
            groups += 1
    if groups < 2:
        return
    for number in present:
        if number != left_out:
            others, common = total - tokens[number], 0.0
            for expert in range(counts.shape[1]):
                whole = 0.0
                for other in present:
                    if other != left_out and other != number:
                        whole += counts[other, expert]
                common += counts[number, expert] * whole
                loads[draw, number, expert] += sign * counts[number, expert]
            shared[draw] += sign * common / others
            covered[draw, number] += sign * tokens[number]
