"""Persistence: how many experts two tokens share that are some distance apart in a text.

The overlap of two sets of experts is |S and S'| / k. What token ids alone give of it is the same, each of the two
tokens replaced by one of its id: both from other groups of clusters than theirs, and from two different ones, so that
nothing but the ids is left of the text. Of every pair `REPLACEMENTS` are drawn; one whose groups are the same is not
used. A pair counts as often as it has replacements, in both. Draws without a group leave out all in which it takes
part.
"""

from collections.abc import Sequence

import numba
import numpy as np
import xarray as xr

from gatebook.inputs.clusters import GROUPS
from gatebook.measures.explained import Partners

REPLACEMENTS = 2
KINDS = ("persistence", "persistence_of_ids")


def persistence(
    same_id: Partners,
    text: xr.Dataset,
    selected: np.ndarray,
    distances: Sequence[int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Overlap of tokens that are some distance apart in a window, and what their ids alone give of it, in one layer.

    Parameters
    ----------
    same_id
        The tokens whose id occurs in another group.
    text
        `window`, `group`, `dataset` (token) of all tokens, those of a window one after another.
    selected
        Their experts, (token, rank) unsigned int.
    distances
        In tokens.
    rng
        Draws the replacements; is moved on.

    Returns
    -------
    numpy.ndarray
        (kind, distance, draw, 1 + dataset) float64, for `KINDS`; the first dataset is the mean of the others, without
        those that have no such pairs.
    """
    tokens, datasets = len(selected), same_id.tokens.shape[1]
    first, length = np.zeros((2, tokens), np.int64)
    own_first, own_length = np.zeros((2, tokens), np.int64)
    sizes = np.diff(same_id.starts)
    value = np.repeat(np.arange(len(sizes)), sizes)
    first[same_id.place], length[same_id.place] = same_id.starts[value], sizes[value]
    own = np.flatnonzero(np.append(True, np.diff(value * GROUPS + same_id.group) != 0))[: len(value)]
    lengths = np.diff(own, append=len(value))
    own_first[same_id.place], own_length[same_id.place] = np.repeat(own, lengths), np.repeat(lengths, lengths)
    sets = np.zeros((tokens, int(selected.max(initial=0)) // 64 + 1), np.uint64)
    _fill_sets(selected, sets)
    sums = np.zeros((len(distances), 3, 1 + GROUPS, datasets))
    for row, distance in enumerate(distances):
        _add_overlaps(
            distance,
            text["window"].values,
            text["group"].values,
            text["dataset"].values,
            (first, length, own_first, own_length, same_id.place),
            sets,
            rng,
            sums[row],
        )
    sums[:, :, 1:] += sums[:, :, :1]
    number = sums[:, :1]
    values = sums[:, 1:] / np.where(number > 0, number * selected.shape[1], np.nan)
    known = np.isfinite(values)
    mean = np.where(known, values, 0).sum(axis=-1, keepdims=True)
    mean /= np.where(known.any(axis=-1, keepdims=True), known.sum(axis=-1, keepdims=True), np.nan)
    return np.concatenate([mean, values], axis=-1).swapaxes(0, 1)


@numba.njit(cache=True)
def _add_overlaps(distance, window, group, dataset, alike, sets, rng, sums):
    """Add the pairs at one distance to `sums` (number, overlap, overlap of replacements; draw, dataset).

    To draw 0 what there is, to the others what leaving out a group takes away. `alike`: of each token where those of
    its id begin, how many there are, where those of its own group among them begin, and how many; and all of them.
    """
    first, length, own_first, own_length, place = alike
    for one in range(len(window) - distance):
        other = one + distance
        if window[one] != window[other] or length[one] == 0 or length[other] == 0:
            continue
        shared = _shared(sets, one, other)
        for _ in range(REPLACEMENTS):
            instead = _replaced(one, first, length, own_first, own_length, place, rng)
            other_instead = _replaced(other, first, length, own_first, own_length, place, rng)
            if group[instead] == group[other_instead]:
                continue
            of_ids, of = _shared(sets, instead, other_instead), dataset[one]
            sums[0, 0, of] += 1
            sums[1, 0, of] += shared
            sums[2, 0, of] += of_ids
            for left_out in (group[one], group[instead], group[other_instead]):
                sums[0, 1 + left_out, of] -= 1
                sums[1, 1 + left_out, of] -= shared
                sums[2, 1 + left_out, of] -= of_ids


@numba.njit(cache=True)
def _replaced(token, first, length, own_first, own_length, place, rng):
    """A random token of the same id in another group."""
    index = first[token] + int(rng.random() * (length[token] - own_length[token]))
    return place[index if index < own_first[token] else index + own_length[token]]


@numba.njit(cache=True)
def _fill_sets(selected, sets):
    """Set the bit of every selected expert, (token, rank), in `sets` (token, word), zeros: 64 experts in each word."""
    for token in range(selected.shape[0]):
        for rank in range(selected.shape[1]):
            expert = np.uint64(selected[token, rank])
            sets[token, expert >> np.uint64(6)] |= np.uint64(1) << (expert & np.uint64(63))


@numba.njit(cache=True)
def _shared(sets, one, other):
    """How many experts two tokens share: the bits that both have."""
    found = 0
    for word in range(sets.shape[1]):
        both = sets[one, word] & sets[other, word]
        while both:
            both &= both - np.uint64(1)  # without its lowest bit
            found += 1
    return found
