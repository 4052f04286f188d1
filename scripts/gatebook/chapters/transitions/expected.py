"""What a class of tokens, such as their id, gives of the transitions between two layers.

If a token's choices in two layers depended on nothing but its class, tokens that choose j in the next layer would have
chosen i before as often as others of their class do: E_ij = sum over tokens t with b_t = j of the share of tokens of
t's class, in other groups of clusters, that chose i. Counts are expected, not drawn: no token is its own partner.
"""

import numpy as np

from gatebook.inputs.clusters import GROUPS
from gatebook.measures.explained import Partners

CELLS = 1 << 15
"""Cells, tokens of one value in one group, that are worked through at a time."""


def expected(found: Partners, before: np.ndarray, after: np.ndarray, experts: int) -> np.ndarray:
    """How many tokens would go from each expert to each of the next layer if their class alone decided.

    Parameters
    ----------
    found
        The tokens with a partner of their class.
    before, after
        The first choices of all tokens in two layers, (token,) int.
    experts
        How many there are.

    Returns
    -------
    numpy.ndarray
        (draw, expert, next expert) float64, in tokens; draw g + 1 leaves out group g, as token and as partner.
    """
    total = np.zeros((1 + GROUPS, experts, experts))
    value = np.repeat(np.arange(len(found.starts) - 1), np.diff(found.starts))
    new = np.append(True, (np.diff(value) != 0) | (np.diff(found.group) != 0))[: len(value)]
    cell, first = np.cumsum(new) - 1, np.flatnonzero(new)
    value, group = value[first], found.group[first]
    ends, start = np.append(np.flatnonzero(np.diff(value)) + 1, len(value)), 0
    while start < len(value):
        end = ends[max(np.searchsorted(ends, start + CELLS, "right") - 1, np.searchsorted(ends, start, "right"))]
        mine = slice(np.searchsorted(cell, start), np.searchsorted(cell, end))
        place = found.place[mine]
        counts = [_table(cell[mine] - start, choice[place], end - start, experts) for choice in (before, after)]
        _add(value[start:end] - value[start], group[start:end], *counts, total)
        start = end
    total[1:] += total[0]
    return total


def _table(row: np.ndarray, column: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """How often each pair occurs: (row, column) float32."""
    found = np.bincount(row * columns + column.astype(np.int64), minlength=rows * columns)
    return found.reshape(rows, columns).astype(np.float32)


def _add(value: np.ndarray, group: np.ndarray, before: np.ndarray, after: np.ndarray, total: np.ndarray) -> None:
    """Add the cells of some values, with their counts (cell, expert), to draw 0, and to the others what leaving out a
    group changes, of the values that it has."""
    size = before.sum(axis=1)
    starts = np.flatnonzero(np.append(True, np.diff(value) != 0))
    others = np.add.reduceat(before, starts)[value] - before
    number = np.add.reduceat(size, starts)[value] - size
    mean = others / number[:, None]
    total[0] += mean.T @ after
    for left_out in range(GROUPS):
        (gone,) = np.nonzero(group == left_out)
        place = np.full(starts.size, -1)
        place[value[gone]] = gone
        changed = np.flatnonzero(place[value] >= 0)
        own = place[value[changed]]
        kept = number[changed] - size[own]
        without = (others[changed] - before[own]) / np.where(kept > 0, kept, np.inf)[:, None]
        without[own == changed] = 0
        total[1 + left_out] += (without - mean[changed]).T @ after[changed]
