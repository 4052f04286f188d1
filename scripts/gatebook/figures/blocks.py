"""Blocks of a tree: what is split up from level to level."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from gatebook.figures.style import PALETTE, house_style, inches
from gatebook.figures.told import Told
from gatebook.figures.words import format_number

LETTER = 0.17
"""Inches that a name needs."""


@house_style
def blocks(
    ax: Axes, paths: np.ndarray, amounts: np.ndarray, total: float, levels: Sequence[str], *, x_label: str
) -> None:
    """Rows of blocks, one for each level, the first on top; a block lies below the one that it is a part of.

    Parameters
    ----------
    ax
        Where they are drawn.
    paths
        Numbers from the first level to the last: (n, L) int.
    amounts
        Of each path: (n,), decreasing.
    total
        What a share of 1 is, at least the sum of the amounts.
    levels
        Names of the levels: (L,).
    x_label
        Name of the axis.
    """
    middles, told = [], []
    for level in range(len(levels)):
        order, start = tree_order(paths, amounts), 0.0
        change = (paths[order][1:, : level + 1] != paths[order][:-1, : level + 1]).any(axis=1)
        edges = [0, *(np.flatnonzero(change) + 1), len(order)]
        for number, (first, last) in enumerate(pairwise(edges)):
            width = amounts[order[first:last]].sum() / total
            middles.append((start + width / 2, level + 0.47))
            told.append(f"{' → '.join(map(str, paths[order[first], : level + 1]))}: {format_number(100 * width)} %")
            look = {"facecolor": PALETTE[0], "alpha": 0.75 if number % 2 else 0.5, "linewidth": 0}
            ax.add_patch(Rectangle((start, level), width, 0.94, **look))
            if width * total / amounts.sum() * inches(ax)[0] > LETTER:
                ax.text(
                    start + width / 2,
                    level + 0.47,
                    str(paths[order[first], level]),
                    ha="center",
                    va="center",
                    fontsize=8,
                )
            start += width
    Told(ax, *np.array(middles).T, told)
    ax.set(xlim=(0, amounts.sum() / total), ylim=(len(levels), 0), xlabel=x_label)
    ax.set_yticks(np.arange(len(levels)) + 0.47, levels)
    ax.tick_params(axis="y", length=0)
    ax.grid(False)


def tree_order(paths: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """An order of paths, (n,) int, in which those of equal prefixes stand together, the largest amounts first."""
    keys = []
    for level in range(paths.shape[1]):
        _, code = np.unique(paths[:, : level + 1], axis=0, return_inverse=True)
        of_prefix = np.bincount(code.ravel(), amounts)[code.ravel()]
        keys += [-of_prefix, code.ravel()]
    return np.lexsort(keys[::-1])
